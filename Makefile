# `make quickstart` is all a fresh machine needs. Without an active virtual environment, `.venv` is created and used.

PYTHON ?= python3
QUICKSTART_FLAGS ?=
PYTEST_FLAGS ?= -n 2 --dist loadfile --no-loadscope-reorder

VENV := $(or $(VIRTUAL_ENV),$(CURDIR)/.venv)
RUN := "$(VENV)/bin/python"
# Written after an installation; the environment is installed again when one of these files is newer.
STAMP := $(VENV)/.t5x_like_installed
REQUIREMENTS := setup.py requirements-lean.txt

# The tests of `make quick`: they check laws of the mathematics and the architecture on the smallest shapes. To add one, append its
# file (or file::test). `make quick` must stay below 2.5 minutes on 2 idle cores; PYTEST_FLAGS="-n 2 --durations=10" shows the slowest.
QUICK := tests/test_layering.py \
  $(addprefix tests/models/test_,$(addsuffix .py,attention blocks heads linear masks mlp norms positions rope_scaling routers)) \
  tests/objectives/test_lm.py tests/optimizers tests/decoding/test_sampling.py \
  tests/data/test_stream.py tests/data/test_mixing.py tests/data/noise/test_laws.py \
  tests/data/rows/test_base.py tests/data/rows/test_packing.py \
  tests/cli/gin tests/scaling/laws/test_checks.py tests/prompting/test_templates.py \
  tests/text_metrics/test_text_metrics.py tests/text_metrics/test_published_scripts.py \
  tests/cleaning/test_heuristics.py tests/cleaning/test_duplicates.py

.PHONY: help quickstart quick test fuzz lint types format bench bench-quick release install
.DEFAULT_GOAL := help

help: ## list these targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | awk -F ':.*## ' '{printf "make %-12s %s\n", $$1, $$2}'

quickstart: install ## pretrain a small model on this machine (about 5 minutes on 2 cores) and sample from it
	$(RUN) -m t5x_like quickstart $(QUICKSTART_FLAGS)

quick: lint ## lint, types and the fastest tests (about 2 minutes on 2 cores): run it while you work
	$(RUN) -m pytest $(PYTEST_FLAGS) $(QUICK)

test: install ## run all tests (PYTEST_FLAGS="-k word" for some of them): run it before you push
	$(RUN) -m pytest $(PYTEST_FLAGS)

fuzz: install ## test readers of files with FUZZ_EXAMPLES random inputs each (default 2000; `make test` takes 20)
	FUZZ_EXAMPLES=$(or $(FUZZ_EXAMPLES),2000) $(RUN) -m pytest tests/fuzz $(PYTEST_FLAGS)

lint: install types ## check style, formatting and types
	$(RUN) -m ruff check .
	$(RUN) -m ruff format --check .

# mypy sees the package as it is installed: models, tasks and gin_configs are linked into a copy of t5x_like.
types: install ## check types
	@rm -rf build/types && mkdir -p build/types/t5x_like
	@cd build/types/t5x_like && ln -s ../../../t5x_like/* ../../../models ../../../tasks ../../../gin_configs .
	$(RUN) -m mypy

format: install ## fix style and formatting
	$(RUN) -m ruff check --fix .
	$(RUN) -m ruff format .

bench: install ## run every benchmark that needs no GPU, one after the other, but not scaling_ladder.py (half an hour)
	@for script in $$(grep -lE '__main__' benchmarks/*.py | grep -vE '/(gpu_|scaling_ladder|quick)'); do \
	  echo "== $$script"; $(RUN) $$script || exit 1; \
	done

bench-quick: install ## compare the speed with the last release's, in under 4 minutes (BENCH_FLAGS="--only=decode")
	$(RUN) benchmarks/quick.py $(BENCH_FLAGS)

release: ## build the sdist and the wheel in dist/ and try the wheel in a new environment
	PYTHON="$(PYTHON)" .ci/release

install: ## install the project for development
	@test -x $(RUN) || $(PYTHON) -m venv "$(VENV)"
	@for file in $(REQUIREMENTS); do \
	  if [ ! "$(STAMP)" -nt $$file ]; then \
	    $(RUN) -m pip install --quiet --editable '.[dev]' && touch "$(STAMP)" && break || exit 1; \
	  fi; \
	done
