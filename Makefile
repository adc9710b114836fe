# `make` lists what there is. The machine needs make and Python 3.11 or newer; everything else goes into .venv,
# in the versions and with the hashes of requirements*.txt.
# Another Python beside it: make test PYTHON=python3.12 VENV=.venv-3.12

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALL := VIRTUAL_ENV="$(abspath $(VENV))" $(BIN)/uv pip install
# The checkout itself is what gets imported; its build backend comes from the lock file, not from a fresh download.
INSTALL_PROJECT := $(INSTALL) --quiet --no-deps --no-build-isolation --editable .
COMPILE := $(BIN)/uv pip compile --quiet --upgrade --no-config --universal --python-version 3.11 --generate-hashes \
	--annotation-style line --custom-compile-command "make lock"
PYTEST := $(BIN)/python -m pytest --numprocesses auto --maxprocesses 8 --dist worksteal

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test test-all lint bench figures gpu-evidence docs pictures lock clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/make \1	\2/p' Makefile | expand -t 20

demo: $(VENV)/.installed ## train a small ResNet plain, with SE and with SGE; write runs/demo/report.html
	$(BIN)/sgenet study run demo --output runs/demo --workers 2

test: lint ## check style and types, run the tests
	$(PYTEST) -m "not slow"

test-all: lint ## the same with the slow tests, measuring coverage, which takes half as long again
	$(PYTEST) --cov

lint: $(VENV)/.installed-test ## check style and types only
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

bench: $(VENV)/.installed-test ## measure what attention costs, and data; add rows to benchmarks/results/ (an hour)
	@set -e; for script in benchmarks/bench_*.py; do echo "$$script"; $(BIN)/python "$$script"; done

figures: $(VENV)/.installed-test ## print the README's table of speed from those rows, and draw its picture
	$(BIN)/python benchmarks/figures.py

gpu-evidence: $(VENV)/.installed-test ## training comparisons for one GPU; goes on where it was stopped
	$(BIN)/python benchmarks/gpu_evidence.py

docs: $(VENV)/.installed-docs ## build the documentation into site/
	$(BIN)/zensical build --clean --strict

pictures: demo $(VENV)/.installed-test ## take the README's pictures out of the demo's report (needs Chromium)
	$(BIN)/python docs/pictures.py runs/demo/report.html

lock: $(VENV)/.installed-uv ## write requirements*.txt: the newest versions that pyproject.toml admits
	$(COMPILE) --group installer --output-file requirements-uv.txt
	$(COMPILE) --extra all --group build --group test pyproject.toml --output-file requirements-test.txt
	$(COMPILE) --constraints requirements-test.txt --extra study --group build pyproject.toml \
		--output-file requirements.txt
	$(COMPILE) --constraints requirements-test.txt --group docs --output-file requirements-docs.txt

clean: ## delete .venv, caches and the built documentation; runs/ stays
	rm -rf "$(VENV)" site dist .coverage .cache .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find src tests benchmarks -name __pycache__ -prune -exec rm -rf {} +

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "sgenet needs Python 3.11 or newer, and '$(PYTHON)' is not; try: make PYTHON=python3.13" >&2; exit 1; }
	@$(PYTHON) -m venv --clear "$(VENV)" || { \
		echo "'$(PYTHON) -m venv' failed; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }

$(VENV)/.installed-uv: requirements-uv.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-uv.txt
	@touch $@

$(VENV)/.installed: requirements.txt pyproject.toml $(VENV)/.installed-uv
	$(INSTALL) --require-hashes -r requirements.txt
	$(INSTALL_PROJECT)
	@touch $@

$(VENV)/.installed-test: requirements-test.txt pyproject.toml $(VENV)/.installed-uv
	$(INSTALL) --require-hashes -r requirements-test.txt
	$(INSTALL_PROJECT)
	@touch $@

$(VENV)/.installed-docs: requirements-docs.txt $(VENV)/.installed-uv
	$(INSTALL) --require-hashes -r requirements-docs.txt
	@touch $@
