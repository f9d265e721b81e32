# simvirt's front door. Everything happens in .venv, which the first command makes.
#
#   make demo       install, and show what virtualization by trap and emulation gets wrong on this PC
#   make test       install with the test tools, and run all checks and tests but the long ones
#   make check      only the checks: ruff, mypy, import-linter
#   make test-long  the long tests
#   make bench      measure speed side by side; writes bench.json
#   make lock       resolve the dependencies anew and write requirements/*.lock
#   make clean      remove .venv and everything built
#
# PYTHON=python3.12 make demo   takes another Python (3.11 or newer)

SHELL := /bin/bash
.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test check test-long bench lock clean native environment test-environment apt-packages real-systems

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup

help:
	@sed -n '/^#   /s/^#   //p' Makefile

demo: environment
	$(BIN)/simvirt compare popf-mask

test: check apt-packages
	$(PYTEST) -m "not long and not bench"

check: test-environment
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

test-long: test-environment apt-packages real-systems
	$(PYTEST) -m "long and not bench" --timeout 1800

bench: test-environment
	$(BIN)/python -m benchmarks --json bench.json

lock:
	PYTHON=$(PYTHON) scripts/lock.sh

clean:
	rm -rf $(VENV) build dist bench.json .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
	rm -f simvirt/machine/native/engine.so simvirt/machine/native/engine.dylib simvirt/machine/native/engine.dll
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# ------------------------------------------------------------------------------------------- the environment
# Stamps in .venv make repetition quick. Packages come by the lock files, each verified by its hash; simvirt itself is
# installed editable, with the build tools of the lock file. hatch_build.py compiles only when something has changed.

environment: $(VENV)/.simvirt native
test-environment: $(VENV)/.test environment

native: $(VENV)/.simvirt
	@$(BIN)/python hatch_build.py >/dev/null

$(VENV)/.made: scripts/make-venv.sh
	PYTHON=$(PYTHON) scripts/make-venv.sh $(VENV)
	@touch $@

$(VENV)/.run: requirements/run.lock $(VENV)/.made
	$(PIP_INSTALL) --require-hashes -r requirements/run.lock
	@touch $@

$(VENV)/.test: requirements/test.lock $(VENV)/.run
	$(PIP_INSTALL) --require-hashes -r requirements/test.lock
	@touch $@

$(VENV)/.simvirt: pyproject.toml hatch_build.py $(VENV)/.run
	$(PIP_INSTALL) --no-deps --no-build-isolation --editable .
	@touch $@

apt-packages:
	@scripts/apt-packages.sh try

# Debian's kernels and memtest86+, which some long tests boot; without them those are skipped.
real-systems: .cache/real-systems/fetched
.cache/real-systems/fetched: scripts/fetch-real-systems.sh
	@scripts/fetch-real-systems.sh || echo "not fetched, tests that boot real systems are skipped" >&2
