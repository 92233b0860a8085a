# The front door. `make test` and `make demo` set everything up on a fresh machine: Python >= 3.10, make, a C compiler.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
JOBS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready

# Engines that the toolkit is compared with; LiteRT's converter pins its own PyTorch, so it lives apart.
BENCH_ENGINES := numpy torch==2.13.0 onnx==1.23.2 openvino==2026.4.1 ai-edge-litert==2.3.0 ncnn==1.0.20261020 pnnx==20261020 MNN==3.6.1
BENCH_LITERT := torch==2.13.0 litert-torch==0.10.0 ai-edge-quantizer==0.10.0 onnx==1.23.2

.PHONY: help setup demo test test-all lint types bench bench-env docs clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

setup: $(READY) ## make the virtual environment with the pinned set

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## synthetic faces -> training -> pictures and numbers, in minutes
	$(BIN)/toolkit demo --force -o demo-out

test: $(READY) ## all tests that this machine can run
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --max-worker-restart 0 --dist loadgroup -m "not exhaustive" $(TESTS)

test-all: $(READY) ## the same, and every combination of nets, compilers, levels and instruction sets: about an hour
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --max-worker-restart 0 --dist loadgroup $(TESTS)

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

bench: $(READY) ## the measured figures of docs/results.md, as ratios, raw samples in bench-out/
	$(BIN)/python -m tests.bench --out bench-out

bench-env: ## other engines for toolkit bench, in environments of their own
	$(PYTHON) -m venv .bench-env/engines
	.bench-env/engines/bin/python -m pip install --quiet $(PIP_ARGS) $(BENCH_ENGINES)
	$(PYTHON) -m venv .bench-env/litert
	.bench-env/litert/bin/python -m pip install --quiet --upgrade $(PIP_ARGS) pip
	.bench-env/litert/bin/python -m pip install --quiet $(PIP_ARGS) $(BENCH_LITERT)

clean: ## remove what the targets above made
	rm -rf $(VENV) .bench-env build dist demo-out bench-out .mypy_cache .ruff_cache .pytest_cache *.egg-info
