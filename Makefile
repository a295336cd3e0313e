# make demo    sets up .venv, trains on the embedded synthetic shapes, draws
# make test    sets up .venv, runs the tests

PYTHON ?= python3
PY312 ?= python3.12
VENV ?= .venv
# Extras of setup.py: EXTRAS=cuda13 on a GPU machine.
EXTRAS ?=
CONFIG ?= configs/demo.py
WORKDIR ?= runs/$(basename $(notdir $(CONFIG)))

BIN := $(VENV)/bin
comma := ,

.PHONY: demo test test-slow soak fuzz test-gpu compiled lint types test-py312 clean

demo: $(VENV)/.ready
	$(BIN)/python -m mrd_jax.main --config $(CONFIG) --workdir $(WORKDIR)
	$(BIN)/python -m mrd_jax.report $(WORKDIR)

test: $(VENV)/.ready-dev
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -n 2 --dist loadfile \
	  --no-loadscope-reorder

SLOW ?= slow and not gpu
test-slow: $(VENV)/.ready-dev
	JAX_PLATFORMS=cpu $(BIN)/python -m pytest -m "$(SLOW)" -n 2

soak: $(VENV)/.ready-dev
	JAX_PLATFORMS=cpu MRD_SOAK_KILLS=200 $(BIN)/python -m pytest -m slow tests/training/test_soak.py

fuzz: $(VENV)/.ready-dev
	JAX_PLATFORMS=cpu MRD_FUZZ_SECONDS=3600 $(BIN)/python -m pytest -m slow tests/fuzz

test-gpu: $(VENV)/.ready-dev
	JAX_PLATFORMS=cuda,cpu $(BIN)/python -m pytest -m gpu

# Nightly: compiles for GPUs without having one, and holds the result to bars.
SIZES ?=
compiled:
	$(MAKE) VENV=.venv-aot EXTRAS=aot .venv-aot/.ready
	JAX_PLATFORMS=cpu .venv-aot/bin/python -m benchmarks.compiled --check \
	  $(if $(SIZES),--sizes $(SIZES))

lint: $(VENV)/.ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready-dev
	$(BIN)/pyright --pythonpath $(BIN)/python

# The newest jax needs Python 3.12.  No torch there: the parity tests skip.
test-py312:
	$(MAKE) VENV=.venv312 PYTHON=$(PY312) DEV_EXTRAS=dev,index,las,wandb test

DEV_EXTRAS ?= dev,torch,onnx,draco,index,las,wandb,beam

$(VENV)/.ready: setup.py | $(BIN)/pip
	$(BIN)/python -m pip install -q -e ".$(if $(EXTRAS),[$(EXTRAS)])"
	touch $@

$(VENV)/.ready-dev: setup.py pyproject.toml | $(BIN)/pip
	$(BIN)/python -m pip install -q \
	  -e ".[$(DEV_EXTRAS)$(if $(EXTRAS),$(comma)$(EXTRAS))]"
	touch $@ $(VENV)/.ready

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "$(PYTHON) is older than 3.11; name another: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)

clean:
	rm -rf .venv .venv312 .venv-aot build *.egg-info
