# `make demo` shows it, `make test` checks it; each prepares .venv by itself the first time.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
# Beside the sources that $(VENV) has: PYTHONPATH chooses it. For each environment its own, as it is for one Python.
COMPILED := build/compiled$(patsubst .venv%,%,$(notdir $(VENV)))
# How far the C compiler goes for what the tests run on; to go as far as for a release, 3, takes a minute and a half more.
OPTIMIZED ?= 0
TESTED := $(COMPILED)-O$(OPTIMIZED)
# How many processes run the tests of the sources, those of the compiled package beside them, and those with NATS. A third
# of the time, and with NATS most of it, a test waits for something: together they have two cores' worth of work to the end.
WORKERS ?= 3
WORKERS_COMPILED ?= 2
WORKERS_NATS ?= 4
# Tests begin hundreds of processes, which would each compile all that they import.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo demo-cluster test test-sources test-source test-nats test-beside test-compiled test-sdk chaos soak fuzz bench docs lint types format clean
.DEFAULT_GOAL := help

help: ## what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

demo: $(VENV)/.ready ## a chat to open in two tabs: the broker, a backend and a page
	@exec $(BIN)/pystrands demo

demo-cluster: $(VENV)/.ready-cluster ## the same with three brokers on a NATS server, and two backends: a tab at each
	@exec $(BIN)/pystrands demo --brokers 3

test: ## everything that must pass: ruff, mypy, all tests, coverage, and what is installed compiled
	@$(MAKE) --no-print-directory lint
	@$(MAKE) --no-print-directory -j4 types test-sources test-beside $(if $(shell command -v npm),test-sdk)
	@echo "All checks passed."

test-sources:
	@$(MAKE) --no-print-directory test-source
	@$(MAKE) --no-print-directory test-nats

test-source: $(VENV)/.ready-test
	$(BIN)/coverage erase
	nice -n 3 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term --durations=10

test-nats: $(VENV)/.ready-test ## the end-to-end tests with brokers on NATS
	nice -n 3 $(BIN)/pytest -n $(WORKERS_NATS) --dist loadfile --engine nats tests/e2e

# It takes as long as the others together, so those are nice to it.
test-beside:
	@mkdir -p build
	@$(MAKE) test-compiled >build/test-compiled.log 2>&1 || { cat build/test-compiled.log; exit 1; }
	@echo "With the compiled package: $$(tail -n 1 build/test-compiled.log)"

test-sdk: ## the client for web pages: types, tests, and whether what the package has is up to date
	cd sdk/js && npm ci --no-audit --no-fund && npm test

docs: $(VENV)/.ready-docs ## the documentation as a site, in site/
	$(BIN)/mkdocs build --strict  # with --quiet it would not count its warnings
	@echo "Open site/index.html"

chaos: $(VENV)/.ready-test ## minutes of failures: backends, links and brokers that die while clients send
	$(BIN)/pytest -m chaos -s tests/chaos tests/cluster tests/engine

soak: $(VENV)/.ready-test ## ten minutes of clients that come, misbehave and go: nothing may be left over
	$(BIN)/pytest -m soak -s tests/soak tests/e2e/test_leaks.py

test-compiled: $(TESTED)/.ready ## the tests of broker, link and clients, on the compiled package
	PYTHONPATH='$(CURDIR)/$(TESTED)' PYSTRANDS_COMPILED=1 $(BIN)/pytest --assert=plain -p no:cacheprovider \
	  -n $(WORKERS_COMPILED) --dist loadfile --no-loadscope-reorder \
	  -m 'not chaos and not soak and not interpreted' \
	  tests/test_compiled.py tests/test_frozen.py tests/client tests/broker tests/protocol tests/conformance tests/cluster tests/e2e

fuzz: $(VENV)/.ready-fuzz ## look for bytes that break what reads them: half a minute for each part; SECONDS=300: longer
	$(BIN)/python -m fuzz --seconds $(or $(SECONDS),30)

bench: $(VENV)/.ready-bench $(COMPILED)/.ready ## PyStrands, compiled, beside others: half an hour, and docs get the figures; QUICK=1: two minutes
	$(BIN)/python -m bench $(if $(QUICK),--quick,--write)
	$(if $(QUICK),,$(BIN)/python -m bench.grow --write)
	$(if $(QUICK),,$(BIN)/python -m bench.cluster --write)
	$(if $(QUICK),,$(BIN)/python -m bench.sessions --write)

lint: $(VENV)/.ready-test ## ruff: rules and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(VENV)/.ready-test ## mypy, strict
	$(BIN)/mypy

format: $(VENV)/.ready-test ## put the code into ruff's format
	$(BIN)/ruff check --fix-only
	$(BIN)/ruff format

clean: ## remove .venv and what tools leave behind
	rm -rf $(VENV) bench/build fuzz/build .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage .coverage.* htmlcov build dist site
	find src tests fuzz -name __pycache__ -type d -prune -exec rm -rf {} +

# An editable install is not compiled; with 0 its build does not fetch what compiles, either.
EDITABLE := PYSTRANDS_COMPILE=0 $(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --build-constraint constraints.txt -e

# The stamps say what is installed; they are older than what they are made of when that changes.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "PyStrands needs Python 3.11 or newer, and '$(PYTHON)' is not; name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.3' -c constraints.txt
	@touch $@

$(VENV)/.ready: $(VENV)/.created pyproject.toml constraints.txt
	$(EDITABLE) .
	@touch $@

$(VENV)/.ready-cluster: $(VENV)/.created pyproject.toml constraints.txt
	$(EDITABLE) '.[cluster]'
	@touch $@ $(VENV)/.ready

$(VENV)/.ready-test: $(VENV)/.created pyproject.toml constraints.txt
	$(EDITABLE) . --group test --group docs
	@touch $@ $(VENV)/.ready $(VENV)/.ready-docs

# What `pip install .` makes, but nothing interpreted in its place.
$(COMPILED)/.ready $(TESTED)/.ready: $(VENV)/.ready-test hatch_build.py $(shell find src -name '*.py')
	rm -rf $(@D)
	PYSTRANDS_COMPILE=1 $(BIN)/pip install --quiet --disable-pip-version-check --build-constraint constraints.txt --no-deps --target $(@D) .
	@touch $@

$(TESTED)/.ready: export MYPYC_OPT_LEVEL := $(OPTIMIZED)

$(VENV)/.ready-docs: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --group docs
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.created pyproject.toml constraints.txt
	$(EDITABLE) . --group bench
	@touch $@ $(VENV)/.ready

$(VENV)/.ready-fuzz: $(VENV)/.created pyproject.toml constraints.txt
	$(EDITABLE) . --group test --group fuzz
	@touch $@ $(VENV)/.ready
