# make demo    the whole story, offline, on a CPU
# make test    lint, types, tests, real engines and clusters among them: ten minutes on two cores
# make check   every test, as CI runs them: half an hour
# All do all the set-up themselves: Python 3.11 or 3.12 and make are enough.

PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
BIN := .venv/bin
PIP := --quiet --no-deps
UV = UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}" $(BIN)/uv pip install $(PIP) \
  --python $(BIN)/python
TORCH := $(shell grep '^torch==' requirements/cpu.txt)

# Compile what the commands import. uv leaves that to the first import, and where the environment has
# PYTHONDONTWRITEBYTECODE every start would pay for it: 36 s instead of 10 to import vLLM. One core
# imports that; the other first compiles whole packages of which that needs most.
unexport PYTHONDONTWRITEBYTECODE
NEEDED := torch/_dynamo torch/_inductor torch/_functorch torch/fx torch/distributed sympy networkx \
  scipy mpmath numpy pandas matplotlib peft datasets accelerate
COMPILE = $(BIN)/python -c 'import gc; gc.disable(); \
    import vllm.v1.worker.cpu_worker; from vllm import LLM' 2> /dev/null & \
  { $(BIN)/python -m compileall -q -x '/tests?/' \
      $(addprefix .venv/lib/python3*/site-packages/,$(NEEDED)) > /dev/null; \
    $(BIN)/python -c 'import gc; gc.disable(); \
      import ray, scipy.stats, matplotlib.pyplot, datasets; \
      from trl import SFTTrainer, RewardTrainer' 2> /dev/null; } & wait

NO_BROWSER := echo 'no chromium: the browser tests will be skipped; apt-get install chromium brings it'

# two workers; a module stays within one, for its fixtures
PYTEST := $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test tests check all-tests lint quick install browser requirements dist clean
.DEFAULT_GOAL := help

help:
	@sed -n '1,4s/^# //p' Makefile

install: .venv/.installed

# The list is complete and pinned, so nothing is resolved: resolving would bring CUDA builds of
# torchvision and torchaudio, which break CPU torch. uv installs it in a tenth of pip's time: torch
# from the configured sources, or else from PyTorch's CPU builds, which uv knows by name. Where uv
# cannot be had, pip does it. uv comes by the pip of $(PYTHON), and brings one for the environment,
# which takes venv 5 s: only where there is none, venv makes it.
.venv/.installed: requirements/cpu.txt pyproject.toml
	@echo 'setting up .venv: about 180 packages'
	@$(PYTHON) -m venv --without-pip .venv
	@$(PYTHON) -m pip --python $(BIN)/python install --quiet uv 2> /dev/null \
	  || { $(PYTHON) -m venv --upgrade .venv; $(BIN)/python -m pip install --quiet uv; } \
	  || echo 'no uv here: pip takes about three minutes'
	@set -e; if [ -x $(BIN)/uv ]; then \
	  $(UV) -r requirements/cpu.txt || { \
	    echo 'no $(TORCH) in the configured sources; taking the CPU build of PyTorch'; \
	    $(UV) --torch-backend cpu -r requirements/cpu.txt; }; \
	  $(UV) pip || $(BIN)/python -m ensurepip > /dev/null; \
	  $(UV) --no-build-isolation --editable .; \
	else \
	  $(BIN)/python -m pip install $(PIP) -r requirements/cpu.txt; \
	  $(BIN)/python -m pip install $(PIP) --no-build-isolation --editable .; \
	fi
	@$(COMPILE)
	touch $@

demo: install
	$(BIN)/raft demo --out-dir demo

# side by side: the tests of engines and clusters leave time on the cores
test: install browser
	@$(MAKE) --no-print-directory --jobs 2 lint tests

tests: install
	$(PYTEST) -m 'not thorough'

check: install browser
	@$(MAKE) --no-print-directory --jobs 2 lint all-tests

all-tests: install
	$(PYTEST)

# the page of `raft report` is tested in a real browser, where there is one or apt-get may bring it
browser:
	@command -v chromium > /dev/null || command -v chromium-browser > /dev/null || \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get > /dev/null; then \
	    echo 'installing chromium, for the tests of the report'; \
	    { apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
	      --no-install-recommends chromium; } > /dev/null 2>&1 || $(NO_BROWSER); \
	  else $(NO_BROWSER); fi

# without real engines and clusters
quick: install
	$(PYTEST) -m 'not vllm and not ray and not slow and not thorough'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

# pin anew: uv reads the overrides in pyproject.toml; no index address is written into the list
requirements:
	uv pip compile pyproject.toml --extra cpu --extra dev --extra tensorboard --python-version 3.11 \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements/cpu.txt
	uv --no-config pip compile pyproject.toml --extra gpu --python-version 3.11 \
	  --python-platform x86_64-manylinux_2_28 \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links -o requirements/gpu.txt

# a wheel in dist/, as `python -m build --wheel` makes it. The version stands in raft/__init__.py; a
# tag of this commit must say the same.
dist: install
	@version=$$(sed -n 's/^__version__ = "\(.*\)"/\1/p' raft/__init__.py); \
	tag=$$(git describe --tags --exact-match 2> /dev/null); \
	if [ -n "$$tag" ] && [ "$$tag" != "v$$version" ]; then \
	  echo "the tag is $$tag, and raft/__init__.py says $$version: make them one"; exit 1; fi
	rm -rf build
	$(BIN)/python -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir dist .
	rm -rf build

clean:
	rm -rf .venv .pytest_cache .ruff_cache
