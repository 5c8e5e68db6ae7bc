# Two commands for a newcomer: `make run` and `make test`.
# Both set up .venv first; any Python >= 3.11 (not 3.12.0) with its venv module will do.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin

# As root, services run as nobody: a Python that only root can reach would not do, so
# .ci/find-python tries the candidates in turn. PYTHON=/path/to/python3 names one instead.
PYTHON ?=
RUN_FLAGS ?= $(shell VENV=$(VENV) sh .ci/run-flags)

.PHONY: run test test-modes test-long conformance lint format docs check bench clean

run: $(VENV)/ready
	@$(BIN)/superd -c etc/superd.yaml --hints $(RUN_FLAGS)

test: $(VENV)/ready
	@VENV=$(VENV) sh .ci/run-tests -m "not long and not conformance and not modes" -n 3 --dist loadfile

test-modes: $(VENV)/ready
	@VENV=$(VENV) sh .ci/run-tests -m "modes and not long" -n 3 --dist loadfile

test-long: $(VENV)/ready
	@VENV=$(VENV) sh .ci/run-tests -m long --timeout 1200

conformance: $(VENV)/ready
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[conformance]'
	@VENV=$(VENV) sh .ci/run-tests -m conformance --timeout 600

lint: $(VENV)/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(VENV)/ready
	$(BIN)/python -m superd.config.reference --write docs
	$(BIN)/python -m superd.core.reference --write superd/README.md docs/logging.md docs/exit-codes.md

check: lint test

$(VENV)/ready: pyproject.toml
	@python="$(PYTHON)"; [ -n "$$python" ] || python=$$(sh .ci/find-python) || exit 1; \
	echo "making $(VENV) with $$python"; "$$python" -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

bench: $(VENV)/ready
	$(BIN)/python bench/run.py --write

clean:
	rm -rf $(VENV) build
