# Two commands: `make demo` shows the first table, `make test` runs the tests. No environment to activate.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
# More overrides for the demo, such as OVERRIDES="limit=10 out=elsewhere"; it asks 38 units per task at two budgets, the experiment 100 at five.
OVERRIDES ?=

.PHONY: help demo test test-fast rehearse docs test-oldest lint format vllm-env test-vllm
.DEFAULT_GOAL := help

help: ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*##/\t/' | expand -t 14

demo: $(VENV)/.installed ## install, then run the fusion ablation on the embedded model
	$(BIN)/python -m zoo_exp run +exp=ablation_fusion budget=[16,8] limit=38 $(OVERRIDES)

test: $(VENV)/.installed-test ## install the test tools, then run all tests: three processes keep two cores busy, since some tests wait
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 3 --dist worksteal -q

test-fast: $(VENV)/.installed-test ## the same without the tests marked slow or slurm: under 3 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -q -m "not slow and not slurm"

rehearse: $(VENV)/.installed ## run every experiment on slim checkpoints and made-up data, with checks: under 4 minutes
	OMP_NUM_THREADS=1 $(BIN)/python -m zoo_exp rehearse $(OVERRIDES)

docs: $(VENV)/.installed-test ## build the documentation in build/docs; every warning is an error
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -W --keep-going -q -b html docs build/docs
	@echo "open build/docs/index.html"

test-oldest: ## test the engine with the oldest supported transformers, installed in build/oldest (minutes)
	PYTHON=$(PYTHON) tests/models/oldest_transformers.sh build/oldest

vllm-env: ## an environment with vLLM for CPUs, in build/vllm (2 minutes, 3.5 GB)
	PYTHON=$(PYTHON) tests/serving/vllm_environment.sh build/vllm

test-vllm: vllm-env ## compare vLLM with transformers on the embedded models (minutes)
	OMP_NUM_THREADS=1 build/vllm/bin/python -m pytest -q -p no:cacheprovider -m vllm tests/serving/test_vllm.py

lint: $(VENV)/.installed-dev ## ruff, ruff format and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# The stamps are newer than what they were installed from, so a second `make` installs nothing.
$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (a few minutes, first time only)"
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-test: pyproject.toml constraints.txt | $(VENV)/bin/python
	@echo "installing into $(VENV) (a few minutes, first time only)"
	$(PIP) -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) -e '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.installed-test
