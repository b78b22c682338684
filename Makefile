# make demo: the runtime's few packages, then ten seconds of the learned game.  make test: everything, then the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
SOURCES := pyproject.toml setup.py constraints.txt

.PHONY: setup demo test lint bench docs rllib clean

setup: $(VENV)/.full

demo: $(VENV)/.runtime
	$(BIN)/mwm demo

test: setup lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile

lint: setup
	$(BIN)/ruff check .
	$(BIN)/mypy

$(VENV)/.runtime: $(SOURCES)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --editable .
	touch $@

$(VENV)/.full: $(SOURCES) | $(VENV)/.runtime
	$(PIP) --editable ".[dev]"
	touch $@

# RLlib pins its own Gymnasium, so it has an environment of its own.
rllib: $(VENV)-rllib/.installed
	$(VENV)-rllib/bin/python examples/rllib_ppo.py

$(VENV)-rllib/.installed: $(SOURCES)
	test -x $(VENV)-rllib/bin/python || $(PYTHON) -m venv $(VENV)-rllib
	$(VENV)-rllib/bin/pip --disable-pip-version-check install --quiet --editable . "ray[rllib]==2.58.0" torch==2.13.0
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-rllib build *.egg-info demo
