# Everything a contributor types. Each target works alone on a fresh machine with Python 3.10 or newer, pip and make.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check
# Two processes, a test file to each at a time: what a file prepares once (captured networks, say) is prepared once.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help demo test test-all lint bench docs clean
# Two targets at once would install into the same environment at once.
.NOTPARALLEL:

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | expand -t 10

# One stamp a set of optional dependencies: installed once, and again when pyproject.toml or constraints.txt changes.
$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-%: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) install --quiet -c constraints.txt -e '.[$*]'
	@touch $@

demo: $(VENV)/.installed ## quantize the digits network, export it, and print what became of it
	$(BIN)/halfstep demo --out halfstep-demo --force

test: $(VENV)/.installed-test ## the tests, without the slow ones
	$(PYTEST) -m "not slow"

# Coverage is counted here alone: it makes the tests half as slow again (317 of them: 63 CPU seconds with it, 41 without).
test-all: $(VENV)/.installed-test ## every test, with coverage
	$(PYTEST) --cov=halfstep --cov-report=term

lint: $(VENV)/.installed-lint ## style, types and the layer contract
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(VENV)/.installed-studies bench-peer-envs ## the published figures, peers beside halfstep (hours)
	@set -e; for name in int8_ptq calibration_memory threshold_time solver_layers rounding integer_ptq integer_speed deployment_speed saturation qat_overhead known_images qat document_tables; do \
		echo "== $$name"; $(BIN)/python benchmarks/$$name.py; done

docs: $(VENV)/.installed ## docs/command_line.md, written from the commands' own help
	$(BIN)/python -m typer halfstep.cli.app utils docs --name halfstep --output docs/command_line.md

clean: ## everything the other targets made
	rm -rf $(VENV) build dist halfstep-demo .coverage .hypothesis .mypy_cache .pytest_cache .ruff_cache .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

-include benchmarks/peers.mk
