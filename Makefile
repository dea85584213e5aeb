# make demo: a fresh environment, then the whole path once.   make test: the tests.
# make test-services: what needs a Prefect server with a worker, an audit, and (where there is one) headless Chromium.
# make test-wheel: the wheel alone, in an environment of its own, and what needs a library that clashes with ours.
# make test-long: whole flows and matrices that would make the tests longer than ten minutes.
# make test-team: the team stack on loopback (PostgreSQL, an S3 store, servers, two workers), one worker killed.
# make test-crash: both flows stopped at every step, in one way or another, and run again; prints the matrix.
# SAU_TEST_ALL_CELLS=1 make test-crash: every step in every way (hours).
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin

.PHONY: setup demo test test-services test-wheel test-long test-team test-crash check map data clean

setup: $(VENV)/.done
$(VENV)/.done: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[service,dev]'
	touch $@

demo: setup
	$(BIN)/sau demo

test: setup check
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder

test-services: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m 'browser or server or audit'

test-wheel: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m wheel tests/e2e/test_wheel.py tests/unit/models/test_compressed.py

test-long: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m long

test-team: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -m team

test-crash: setup
	HF_HUB_OFFLINE=1 $(BIN)/python -m pytest -q -rP -n 2 --dist loadfile --no-loadscope-reorder -m crash \
		tests/e2e/test_killed_flows.py tests/e2e/test_killed_bootstrap.py tests/integration/test_reconcile.py

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/map.py --check

map: setup
	$(BIN)/python docs/map.py

data: setup
	$(BIN)/python -c 'from pathlib import Path; from sau.data import write_demo_data; write_demo_data(Path("data"))'
	$(BIN)/dvc commit --force data.dvc

clean:
	rm -rf $(VENV) .sau .dvc/cache .dvc/tmp data artifacts checkpoint metrics
