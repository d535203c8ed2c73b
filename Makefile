# Two commands: `make demo` shows the first table, `make test` runs the tests. Nothing to activate, nothing to export.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# More for the demo, such as OVERRIDES="limit=10 out=elsewhere".
OVERRIDES ?=

.PHONY: help demo test test-oldest lint format
.DEFAULT_GOAL := help

help: ## what can be made
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

demo: $(VENV)/.installed ## install, then run the fusion ablation on the embedded model
	$(BIN)/python -m zoo_exp run +exp=ablation_fusion $(OVERRIDES)

test: $(VENV)/.installed-test ## install with the test tools, then run the tests in two processes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 -q

test-oldest: ## the engine with the oldest supported transformers, in build/oldest: minutes, installs
	PYTHON=$(PYTHON) tests/models/oldest_transformers.sh build/oldest

lint: $(VENV)/.installed-dev ## ruff, ruff format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## let ruff write the files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamps are newer than what they were installed from, so a second `make` installs nothing.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): a few minutes, once"
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV): a few minutes, once"
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test
