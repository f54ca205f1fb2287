# Targets for a bare machine with Python >= 3.11; everything goes into .venv of this checkout.
#   make setup      the environment            make demo    the whole method on a small real model
#   make test       lint, types, tests         make test-all   with the tests on the real model
#   make test-vllm  the vLLM plug-in against a CPU build of vLLM, in an environment of its own (3.7 GB)
#   make bench PAIRS=FILE   speed and memory against TRL, the plain base and others (benchmarks/README.md)
SHELL := /bin/bash
PYTHON ?= python3
# Most tests use one core.
TEST_WORKERS ?= 2
BIN := .venv/bin
STAMP := .venv/.installed

PYTEST := $(BIN)/python -m pytest -n $(TEST_WORKERS) --dist worksteal

VLLM := .venv-vllm/bin
VLLM_STAMP := .venv-vllm/.installed

.PHONY: setup demo bench test test-all test-vllm lint types format clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints-dev.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "Python >= 3.11 is needed, $$($(PYTHON) --version) found; name another with: make $(MAKECMDGOALS) PYTHON=python3.12"; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null \
	  || { echo "Python's venv module is missing (Debian: apt-get install python3-venv)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints-dev.txt torch
	$(BIN)/python -m pip install --quiet -c constraints-dev.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/qadapter demo

bench: $(STAMP)
	@test -n "$(PAIRS)" || { echo "name preference pairs, a file or a hub data set id: make bench PAIRS=pairs.jsonl"; exit 1; }
	$(BIN)/python benchmarks/run.py cpu --pairs "$(PAIRS)"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

test: lint types
	$(PYTEST)

test-all: lint types
	QADAPTER_REAL_MODEL=1 $(PYTEST)

# vLLM asks for an older transformers than the rest is developed with: an environment of its own, every package pinned.
$(VLLM_STAMP): pyproject.toml constraints-vllm.txt
	$(PYTHON) -m venv .venv-vllm
	$(VLLM)/python -m pip install --quiet --upgrade pip
	$(VLLM)/python -m pip install --quiet --no-deps -r constraints-vllm.txt
	$(VLLM)/python -m pip install --quiet --no-deps -e .
	@touch $(VLLM_STAMP)

test-vllm: $(VLLM_STAMP)
	$(VLLM)/python -m pytest tests/vllm_plugin

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf .venv .venv-vllm runs dist .pytest_cache .ruff_cache .mypy_cache .hypothesis
