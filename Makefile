# `make help` lists what can be done; `make check` is what CI runs. Needs GNU make, Python >= 3.11, and nothing else:
# the tests and `make up` bring their own server.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

PYTHON ?= python3
# For pytest, as in `make test PYTEST_ARGS="-k merge"`; by itself two workers a core, each with a server of its own,
# because the tests wait more than they compute.
# A worker that has nothing left to do takes tests from another; neighbours, which share fixtures, stay together until then.
PYTEST_ARGS ?= -n $(shell expr 2 \* $$(getconf _NPROCESSORS_ONLN)) --dist worksteal
# More for the resolver, as in `make constraints UV_ARGS=--upgrade`.
UV_ARGS ?=

BIN := .venv/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check
RUNTIME := .venv/.runtime
STAMP := .venv/.installed
UNFINISHED := .venv/.unfinished
# One sentence, where pip would say of the first dependency that it has no such version.
CHECK_PYTHON := import sys; sys.version_info >= (3, 11) or \
	sys.exit("expected Python 3.11 or newer, got %d.%d: make PYTHON=python3.11 ..." % sys.version_info[:2])

.PHONY: help
help: ## list what can be done
	@awk -F ':.*## ' '/^[a-z][a-z.%-]*:.*## / { printf "  make %-17s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# What running needs. Two steps, because pip in hash-checking mode wants a hash for everything, and a work tree has none:
# first every dependency (and the build backend) with its hash, then the project itself, alone and editable.
# A .venv without pip is what a Python without ensurepip leaves behind, and one with $(UNFINISHED) was interrupted while it was
# made or filled: what is in it may be half there, and pip would take it for installed. Both are made again.
$(RUNTIME): pyproject.toml constraints-service.txt
	@if test -e $(UNFINISHED) || ! $(BIN)/python -m pip --version > /dev/null 2>&1; then \
		$(PYTHON) -c '$(CHECK_PYTHON)'; \
		rm -rf $(BIN) .venv; \
		mkdir .venv; \
		touch $(UNFINISHED); \
		$(PYTHON) -m venv .venv; \
	fi
	@touch $(UNFINISHED)
	$(PIP_INSTALL) --require-hashes -r constraints-service.txt
	$(PIP_INSTALL) --no-deps --no-build-isolation -e .
	$(BIN)/python -m pip check
	@rm $(UNFINISHED)
	touch $@

# The rest. It has the same versions of what is there, so it only adds.
$(STAMP): $(RUNTIME) constraints.txt
	@mv $(RUNTIME) $(UNFINISHED)
	$(PIP_INSTALL) --require-hashes -r constraints.txt
	$(BIN)/python -m pip check
	@mv $(UNFINISHED) $(RUNTIME)
	touch $@

.PHONY: install-service
install-service: $(RUNTIME) ## make .venv with what running needs, as `make up` and `make demo` do

.PHONY: install
install: $(STAMP) ## make .venv with everything in it, as every other target does (again only if something changed)

.PHONY: up
up: $(RUNTIME) ## start everything in the background, with an embedded server whose data is in .kinfold
	$(BIN)/kinfold up --detach

.PHONY: down
down: $(RUNTIME) ## stop what `make up` started; the data stays
	$(BIN)/kinfold down

.PHONY: demo
demo: up ## start everything, play the example history into it, and look at the result
	$(BIN)/kinfold publish examples/swift-history.ndjson.gz --wait
	$(BIN)/kinfold contacts --limit 3
	$(BIN)/kinfold status
	@echo 'The next steps are listed above, under "kinfold is up".'

# Tests start kinfold hundreds of times: without bytecode files, every start compiles it again.
test test-long: export PYTHONDONTWRITEBYTECODE :=

.PHONY: test
test: $(STAMP) ## run all tests, the slow ones too
	$(BIN)/python -m pytest $(PYTEST_ARGS)

.PHONY: test-long
test-long: $(STAMP) ## run all tests in their long form: more random examples, greater sizes, an application of Next
	KINFOLD_TEST_LONG=1 KINFOLD_NEXT=1 $(BIN)/python -m pytest --timeout 1800 $(PYTEST_ARGS)

.PHONY: torture-retention
torture-retention: $(STAMP) ## kill a retention run 20 times, with load
	KINFOLD_TEST_KILLS=20 $(BIN)/python -m pytest --timeout 1800 tests/retention/test_killed.py

# As `make model MODEL_ARGS="--minutes 10"`; `--help` lists the rest.
MODEL_ARGS ?=

.PHONY: model
model: $(STAMP) ## compare the fold with the contract by definition, on random logs, until stopped
	$(BIN)/python -m tests.model $(MODEL_ARGS)

# As `make search-model SEARCH_EXAMPLES=20000`.
SEARCH_EXAMPLES ?= 6000

.PHONY: search-model
search-model: $(STAMP) ## compare search with plain Python, on random filters, on SQLite and PostgreSQL (SEARCH_EXAMPLES)
	KINFOLD_SEARCH_EXAMPLES=$(SEARCH_EXAMPLES) $(BIN)/python -m pytest tests/directory/test_search_by_definition.py --timeout 3600

# As `make injections INJECTION_CASES=1000000`.
INJECTION_CASES ?= 100000

.PHONY: injections
injections: $(STAMP) ## ask the directory hostile questions, on SQLite and PostgreSQL (INJECTION_CASES)
	KINFOLD_INJECTION_CASES=$(INJECTION_CASES) $(BIN)/python -m pytest tests/directory/test_injection.py --timeout 7200

# As `make attack ATTACK_ARGS="--only gzip"`; `--help` lists the rest.
ATTACK_ARGS ?=

.PHONY: torture-erasure
torture-erasure: $(STAMP) ## kill an erasure twenty times, at random instants, under load
	KINFOLD_TEST_LONG=1 $(BIN)/python -m pytest --timeout 1800 tests/privacy/test_killed.py $(PYTEST_ARGS)

.PHONY: attack
attack: $(STAMP) ## attack a gateway, a projector and a server of its own, on loopback, and print what each attack did (ATTACK_ARGS)
	$(BIN)/python -m tests.attack $(ATTACK_ARGS)

# As `make fuzz FUZZ_CASES=50000`.
FUZZ_CASES ?= 1000000

.PHONY: fuzz
fuzz: $(STAMP) ## try random bytes wherever bytes come from outside, a million cases (FUZZ_CASES)
	FUZZ_CASES=$(FUZZ_CASES) $(BIN)/python -m pytest tests/fuzz --timeout 36000

# About half an hour: every scenario several times, and projectors disturbed at random for some seconds each time.
FAILOVER_ROUNDS ?= 5
FAILOVER_S ?= 120

.PHONY: failover
failover: $(STAMP) ## kill, hang, promote and cut off real servers and projectors, at length (FAILOVER_ROUNDS, FAILOVER_S)
	KINFOLD_FAILOVER_ROUNDS=$(FAILOVER_ROUNDS) KINFOLD_FAILOVER_S=$(FAILOVER_S) KINFOLD_FAILOVER_SLACK=2 \
		$(BIN)/python -m pytest tests/failover --timeout 900 $(FAILOVER_ARGS)

.PHONY: prose
prose: $(STAMP) ## check the words of pages, docstrings and comments (tools/prose.toml); a long sentence is only a warning
	$(BIN)/python -m tools.prose

.PHONY: lint
lint: $(STAMP) prose ## ruff, mypy and pyright in strict mode, the import contracts, and the prose
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pyright
	$(BIN)/lint-imports

.PHONY: format
format: $(STAMP) ## let ruff format, and mend what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: check
check: lint test ## lint and test: what CI runs

# Some ten minutes on two cores that have nothing else to do. One of them: `make bench-replay`, or the script itself.
BENCHMARKS ?= live against_peers replay latency workspaces growth gateway_ingest gateway_feed

.PHONY: bench
bench: $(STAMP) ## measure everything beside its reference, and put the tables and the chart into the docs and the README
	for each in $(BENCHMARKS); do $(BIN)/python benchmarks/$$each.py; done
	$(BIN)/python benchmarks/report.py

.PHONY: bench-check
bench-check: $(STAMP) ## fail where a ratio or an instruction count is worse than the stored one by a quarter
	$(BIN)/python benchmarks/check.py

bench-%: $(STAMP) ## measure one thing alone: bench-live, bench-replay and so on, as the scripts in benchmarks/ are called
	$(BIN)/python benchmarks/$(subst -,_,$*).py

# Only for changes of clients/browser and clients/react: what the gateway serves is in the repository.
.PHONY: web
web: $(STAMP) ## build the clients for browsers with npm, and the scripts that the gateway serves (Node comes as a wheel)
	$(BIN)/python -m tools.web

.PHONY: screenshots
screenshots: $(STAMP) ## take the pictures of the screen for the documentation, in Chromium
	$(BIN)/python -m tools.screenshots

# NO_MKDOCS_2_WARNING: Material's banner about its successor.
.PHONY: docs
docs: $(STAMP) ## build the documentation into site/; a warning, a dead link or a missing anchor is an error
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

.PHONY: build
build: $(STAMP) ## build the wheel and the source distribution into dist/
	rm -rf dist
	$(BIN)/hatchling build

# uv writes one file for every platform and Python that we support, with markers; pip-compile knows only the one it runs on.
.PHONY: constraints
constraints: ## resolve constraints*.txt again from pyproject.toml (keeps pins that still fit; UV_ARGS=--upgrade moves them)
	@tmp="$$(mktemp -d)"; trap 'rm -rf "$$tmp"' EXIT; \
	$(PYTHON) -m venv "$$tmp/venv"; \
	"$$tmp/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv; \
	resolve() { \
		local out="$$1"; shift; \
		"$$tmp/venv/bin/uv" pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url \
			--no-header $(UV_ARGS) "$$@" --output-file "$$out" > /dev/null; \
		{ echo "# Every dependency with its hashes, for Linux and macOS, Python 3.11 to 3.13. Made by 'make constraints'; do not edit."; \
		  echo "#     pip install --require-hashes -r $$out"; \
		  echo "#     pip install --no-deps --no-build-isolation -e ."; \
		  cat "$$out"; } > "$$tmp/out"; \
		cat "$$tmp/out" > "$$out"; \
	}; \
	resolve constraints.txt pyproject.toml --extra service --extra dev; \
	printf 'hatchling\neditables\n' > "$$tmp/backend.in"; \
	resolve constraints-service.txt pyproject.toml "$$tmp/backend.in" --extra service --constraints constraints.txt --no-annotate

.PHONY: clean
clean: ## remove what can be made again; not .kinfold, which is data
	rm -rf .venv dist build site clients/node_modules clients/*/dist .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
	find . -name __pycache__ -type d -not -path './.git/*' -prune -exec rm -rf {} +
