# `make quickstart` is all a fresh machine needs. Without an active virtual environment, `.venv` is made and used.

PYTHON ?= python3
QUICKSTART_FLAGS ?=
PYTEST_FLAGS ?= -n 2

VENV := $(or $(VIRTUAL_ENV),$(CURDIR)/.venv)
RUN := $(VENV)/bin/python
# Written by `make`, so an environment is installed into once, and again when what the project needs has changed.
STAMP := $(VENV)/.t5x_like_installed

.PHONY: help quickstart test lint format bench install
.DEFAULT_GOAL := help

help: ## list these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

quickstart: $(STAMP) ## pretrain a small model on this machine (about 5 minutes on 2 cores) and sample from it
	$(RUN) -m t5x_like quickstart $(QUICKSTART_FLAGS)

test: $(STAMP) ## run the tests (PYTEST_FLAGS="-k word" for some of them)
	$(RUN) -m pytest $(PYTEST_FLAGS)

lint: $(STAMP) ## check style and formatting
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

format: $(STAMP) ## repair style and formatting
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: $(STAMP) ## run every benchmark that needs no GPU, one after the other (scaling_ladder.py, half an hour, apart)
	@for script in $$(grep -lE '__main__' benchmarks/*.py | grep -vE '/(gpu_|scaling_ladder)'); do \
	  echo "== $$script"; $(RUN) $$script || exit 1; \
	done

install: $(STAMP) ## install the project for development and nothing else

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(STAMP): setup.py requirements-lean.txt | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --editable '.[dev]'
	@touch $@
