# make demo: fine-tune CHGNet on data/interface and show what it gained
# make test: everything that continuous integration checks
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:

VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO := runs/demo
PIP = $(BIN)/python -m pip install -qq --disable-pip-version-check
# One thread per process: small graphs run faster so, and two test processes fill two cores.
ONE_THREAD := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
WORKERS ?= 2

# The first of these that is Python 3.11 or 3.12; set PYTHON=... to choose another.
PYTHON ?= $(shell for p in python3.11 python3.12 python3 python; do \
	$$p -c 'import sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' 2>/dev/null && { echo $$p; break; }; done)

.PHONY: help env demo test lint docs clean

help: ## Show the targets.
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /make \1\t/' | expand -t 14

env: $(STAMP) ## Make .venv with the pinned versions.

$(STAMP): pyproject.toml constraints.txt requirements.lock
	@test -n "$(PYTHON)" || { echo "no Python 3.11 or 3.12 found; install one, or say PYTHON=/path/to/python3.11"; exit 1; }
	@echo "==> environment in $(VENV) with $(PYTHON) (about 2 GB; two minutes on a fast connection)"
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip download -qq --disable-pip-version-check --no-deps -d $(VENV)/torch -c constraints.txt torch
	@grep -q "$$(sha256sum $(VENV)/torch/torch-*.whl | cut -c 1-64)" requirements.lock || { echo "torch: got $$(sha256sum $(VENV)/torch/*), expected one of the sums in requirements.lock"; exit 1; }
	$(PIP) --no-deps $(VENV)/torch/torch-*.whl # first, because pip would take the CUDA build where it can choose by sums
	rm -r $(VENV)/torch
	$(PIP) --require-hashes --no-deps -r requirements.lock
	$(PIP) --no-build-isolation -c constraints.txt -e ".[dev,docs]" # finds all there; with CUDA, what torch itself pins
	@touch $@

demo: $(STAMP) ## Fine-tune CHGNet on data/interface, errors before and after.
	@echo "==> fine-tuning CHGNet on data/interface into $(DEMO)"
	rm -rf $(DEMO)
	$(ONE_THREAD) WANDB_MODE=offline MPLBACKEND=Agg $(BIN)/finetune fit -c configs/base.yaml -c configs/chgnet.yaml --trainer.default_root_dir $(DEMO)

lint: $(STAMP) ## Ruff, mypy and the layer contract.
	@echo "==> ruff"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@echo "==> mypy"
	$(BIN)/mypy
	@echo "==> import-linter"
	$(BIN)/lint-imports --no-logo

test: lint ## All checks: ruff, mypy, import-linter, pytest.
	@echo "==> pytest"
	$(ONE_THREAD) $(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(STAMP) ## What takes longer: twenty kills, whole notebooks.
	$(ONE_THREAD) $(BIN)/python -m pytest -m slow

docs: $(STAMP) ## Build the documentation into site/.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

clean: ## Remove everything that make made, the runs too.
	rm -rf $(VENV) runs site build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
