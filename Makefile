# make demo: the runtime's few packages, then ten seconds of the learned game.  make test: everything, then the tests.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check install --quiet --constraint constraints.txt
SOURCES := pyproject.toml setup.py constraints.txt

.PHONY: setup demo test lint bench docs rllib fused clean

setup: $(VENV)/.full

demo: $(VENV)/.runtime
	$(BIN)/mwm demo

test: setup lint
	$(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

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

# mamba-ssm's kernels: on a GPU, or by Triton's interpreter where there is none. Linux only; 280 MB.
fused: $(VENV)-fused/.installed
	PYTHONPATH=$(VENV)-fused $(BIN)/python tests/train/fused.py

$(VENV)-fused/.installed: Makefile | setup
	rm -rf $(VENV)-fused && mkdir $(VENV)-fused
	$(BIN)/python -c "import triton" 2>/dev/null || $(PIP) --target $(VENV)-fused triton==3.9.0
	$(PIP) --target $(VENV)-fused --no-deps einops==0.8.2
	MAMBA_SKIP_CUDA_BUILD=TRUE $(BIN)/pip --disable-pip-version-check download --quiet --no-deps --no-build-isolation \
	    --no-binary mamba-ssm --dest $(VENV)-fused mamba-ssm==2.3.2.post1
	tar --extract --gzip --file $(VENV)-fused/mamba_ssm-*.tar.gz --directory $(VENV)-fused --strip-components 1 \
	    --wildcards "*/mamba_ssm/*"
	touch $@

clean:
	rm -rf $(VENV) $(VENV)-rllib $(VENV)-fused build *.egg-info demo
