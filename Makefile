# `make demo` shows it, `make test` checks it; each prepares .venv by itself the first time.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin

.PHONY: help demo test test-compiled chaos soak fuzz bench docs lint types format clean
.DEFAULT_GOAL := help

help: ## what can be made
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1\t\2/' | expand -t 16

demo: $(VENV)/.ready ## a chat to open in two tabs: the broker, a backend and a page
	@exec $(BIN)/pystrands demo

test: lint types ## everything that must pass: ruff, mypy, all tests, coverage
	$(BIN)/coverage erase
	$(BIN)/pytest --cov --cov-report=term --durations=10
	@echo "All checks passed."

docs: $(VENV)/.ready-docs ## the documentation as a site, in site/
	$(BIN)/mkdocs build --strict  # with --quiet it would not count its warnings
	@echo "Open site/index.html"

chaos: $(VENV)/.ready-test ## minutes of failures: backends, links and brokers that die while clients send
	$(BIN)/pytest -m chaos -s tests/chaos

soak: $(VENV)/.ready-test ## ten minutes of clients that come, misbehave and go: nothing may be left over
	$(BIN)/pytest -m soak -s tests/soak

# What mypyc makes of `await` calls throw() in a way that Python 3.12 deprecates.
test-compiled: build/compiled/.ready ## the tests of broker, link and clients, on the compiled package
	PYTHONPATH=build/compiled PYSTRANDS_COMPILED=1 $(BIN)/pytest --assert=plain -p no:cacheprovider \
	  -W 'ignore:the (type, exc, tb) signature of throw():DeprecationWarning' \
	  tests/test_compiled.py tests/client tests/broker tests/e2e  # those of protocol/ derive from its classes

fuzz: $(VENV)/.ready-fuzz ## look for bytes that break what reads them: half a minute for each part; SECONDS=300: longer
	$(BIN)/python -m fuzz --seconds $(or $(SECONDS),30)

bench: $(VENV)/.ready-bench $(if $(QUICK),,build/compiled/.ready) ## PyStrands beside others: half an hour, and docs get the figures; QUICK=1: two minutes
	$(BIN)/python -m bench $(if $(QUICK),--quick,--write)
	$(if $(QUICK),,$(BIN)/python -m bench.grow --write)

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

# The stamps say what is installed; they are older than what they are made of when that changes.
$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "PyStrands needs Python 3.11 or newer, and '$(PYTHON)' is not; name another one: make PYTHON=python3.12 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1' -c constraints.txt
	@touch $@

$(VENV)/.ready: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e .
	@touch $@

$(VENV)/.ready-test: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e . --group test --group docs
	@touch $@ $(VENV)/.ready $(VENV)/.ready-docs

# What HATCH_BUILD_HOOKS_ENABLE=1 builds, beside the sources that .venv has: PYTHONPATH chooses it.
build/compiled/.ready: $(VENV)/.ready-test hatch_build.py $(shell find src -name '*.py')
	rm -rf build/compiled
	HATCH_BUILD_HOOKS_ENABLE=1 $(BIN)/pip install --quiet --disable-pip-version-check --no-deps --target build/compiled .
	@touch $@

$(VENV)/.ready-docs: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt --group docs
	@touch $@

$(VENV)/.ready-bench: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e . --group bench
	@touch $@ $(VENV)/.ready

$(VENV)/.ready-fuzz: $(VENV)/.created pyproject.toml constraints.txt
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e . --group test --group fuzz
	@touch $@ $(VENV)/.ready
