# make demo    transcribe the bundled recording with the bundled model, the edits shown
# make test    run every test
# make check   lint, format, types, layers
# The first call makes .venv; later calls make it again only when pyproject.toml or constraints.txt changed.

SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --no-compile --disable-pip-version-check -c constraints.txt

# Tests start hundreds of processes, each of which would compile PyTorch's modules again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo test check clean

demo: $(VENV)/.base
	$(BIN)/redline transcribe redline/assets/demo.flac --show-edits

# Test files run in as many processes as there are CPUs, at most four, each computing with one thread.
test: export OMP_NUM_THREADS ?= 1
test: $(VENV)/.test
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile $(ARGS)

check: $(VENV)/.test
	scripts/check

$(VENV)/.python:
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: no $(PYTHON) on this machine; install Python 3.10 or later, or name one: make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { \
	  echo "make: $$($(PYTHON) --version) is too old; Redline needs 3.10 or later: make PYTHON=python3.12" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "make: $(PYTHON) cannot make a virtual environment; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@touch $@

$(VENV)/.base: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing Redline into $(VENV) (once)" >&2
	$(INSTALL) -e .
	@touch $@

$(VENV)/.test: $(VENV)/.python pyproject.toml constraints.txt
	@echo "Installing Redline and what its tests need into $(VENV) (once)" >&2
	$(INSTALL) -e ".[test]"
	@touch $(VENV)/.base $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
