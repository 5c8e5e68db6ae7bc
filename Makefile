# Two commands for a newcomer: `make run` and `make test`.
# Both set up .venv first; any Python >= 3.11 (not 3.12.0) with its venv module will do.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin

# As root, services run as nobody: a Python that only root can reach would not do,
# so the candidates are asked in turn whether everybody may read them.
PYTHON ?= $(shell sh .ci/find-python)
RUN_FLAGS ?= $(shell sh .ci/run-flags)

.PHONY: run test test-long lint format docs check bench clean

run: $(VENV)/ready
	@$(BIN)/superd -c etc/superd.yaml --hints $(RUN_FLAGS)

test: $(VENV)/ready
	$(BIN)/python -m pytest -m "not long"

test-long: $(VENV)/ready
	$(BIN)/python -m pytest -m long --timeout 1200

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/ready
	$(BIN)/python -m superd.config.reference --write docs
	$(BIN)/python -m superd.core.reference --write superd/README.md

check: lint test

$(VENV)/ready: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV)
