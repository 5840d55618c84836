# Needs Python 3.11 or later, make and git. Each target sets up .venv by itself, with uv where it is installed.

SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
WORKERS ?= 6
SECONDS ?= 60
PYTEST := $(BIN)/python -m pytest -q

.DEFAULT_GOAL := help
.PHONY: help demo test check check-speed bench faults faults-quick images containers fuzz clean

help: ## this list
	@echo "Millstream: an event pipeline on Redis Streams"
	@sed -n 's/^\([a-z-]*\):.*## /  make \1	/p' Makefile

demo: $(VENV)/.ready-embedded ## events flow into two groups; kill a worker and see the other take over
	@$(BIN)/millstream demo

# Tests wait more than they work: more workers than cores.
test: $(VENV)/.ready-dev ## all tests but the campaigns, on an embedded server (MILLSTREAM_TEST_SERVER names another)
	@$(PYTEST) -n $(WORKERS) --dist worksteal

check: $(VENV)/.ready-dev ## ruff and mypy strict
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

check-speed: $(VENV)/.ready-dev ## instructions per event on each hot path, against recorded budgets (CPU time, without valgrind)
	@$(BIN)/python -m benchmarks.check_speed $(ARGS)

bench: $(VENV)/.ready-dev ## the server's limit and our share of it, on a server of its own (ARGS="--events 20000")
	@folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && trap 'exit 130' INT TERM && \
	$(BIN)/millstream bench --url "embedded://$$folder" $(ARGS)

faults: $(VENV)/.ready-dev ## the fault suite in full: 10,000 confirmed sends a row (ARGS="--row NAME --seed 7"); takes long
	@$(BIN)/python -m tests.faults.campaign $(ARGS)
	@$(BIN)/python -m tests.faults.campaign --variants --sends 1000
	@$(PYTEST) -v --full --timeout 1800 tests/faults tests/guarantees tests/model

# First the rows, by themselves: they go by the clock, and campaigns keep the processors busy.
faults-quick: $(VENV)/.ready-dev ## its rows with 1,000 sends each, some variants, and the campaigns of other tests
	@$(PYTEST) -n 4 --dist worksteal --rows -m rows
	@$(PYTEST) -n 4 --dist worksteal --rows -m "campaign and not rows"

images: $(VENV)/.ready-dev ## the images of compose/: those there are, else pulled, else built (ARGS="redis millstream" for some)
	@PYTHON=$(BIN)/python compose/images.sh $(ARGS)

containers: images ## images and compose files run on the Docker engine of this machine
	@$(PYTEST) -n 2 --dist loadfile --containers -m containers tests/containers

fuzz: $(VENV)/.ready-fuzz ## every decoder under libFuzzer (SECONDS=60 for each; ARGS="entry header" for some)
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS) $(ARGS)

clean: ## remove what make and the tools made; demo data stays
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

# The stamp says what was installed for which pyproject.toml. An environment whose Python is gone is made anew.
$(VENV)/.ready-%: pyproject.toml
	@echo "setting up $(VENV) ($*) ..."
	@set -e; \
	if ! $(BIN)/python -c '' 2>/dev/null; then rm -rf $(VENV); fi; \
	if command -v uv >/dev/null 2>&1; then \
	  [ -d $(VENV) ] || uv venv -q --python '>=3.11' $(VENV); \
	  uv pip install -q --python $(BIN)/python -e '.[$*]'; \
	else \
	  if ! $(BIN)/python -m pip --version >/dev/null 2>&1; then \
	    for python in python3 python3.14 python3.13 python3.12 python3.11; do \
	      if $$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then found=$$python; break; fi; \
	    done; \
	    if [ -z "$$found" ]; then echo "Millstream needs Python 3.11 or later (or uv, which brings it)" >&2; exit 1; fi; \
	    $$found -m venv $(VENV); \
	  fi; \
	  $(BIN)/python -m pip install -q --disable-pip-version-check -e '.[$*]'; \
	fi
	@touch $@
