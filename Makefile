# The front door. `make test` and `make demo` set everything up on a fresh machine: Python >= 3.10, make, a C compiler.
PYTHON ?= python3
VENV ?= .venv
PIP_ARGS ?=
JOBS ?= 2
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: help setup demo test lint types bench docs clean
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | sort

setup: $(READY) ## make the virtual environment with the pinned set

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt torch numpy
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(READY) ## synthetic faces -> training -> pictures and numbers, in minutes
	$(BIN)/toolkit demo --force -o demo-out

test: $(READY) ## all tests that this machine can run
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(JOBS) --dist loadgroup $(TESTS)

lint: $(READY) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY) ## mypy, strict
	$(BIN)/mypy

bench: $(READY) ## the measured figures of docs/results.md, as ratios, raw samples in bench-out/
	$(BIN)/python -m tests.bench --out bench-out

clean: ## remove what the targets above made
	rm -rf $(VENV) build dist demo-out bench-out .mypy_cache .ruff_cache .pytest_cache *.egg-info
