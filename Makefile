# Everything a user needs: `make demo` (or `make help`). PYTHON=python3.12 picks another interpreter.
PYTHON ?= python3
WORKERS ?= 2
BIN := .venv/bin

.DEFAULT_GOAL := help
.PHONY: help demo test slow lint docs floor package figures bench gpu clean

help:  ## show this list
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-9s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "gradprobe needs Python 3.11 or newer; type: make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/developing: .venv/installed
	$(BIN)/python -m pip install --quiet --group dev
	@touch $@

demo: .venv/installed  ## install into .venv and measure: vpnoise against gumbel on the embedded model
	$(BIN)/gradprobe coherence --op vpnoise --k 58

test: .venv/developing  ## run the tests (the `real` ones if GRADPROBE_ASSETS or ../shared/assets is there)
	$(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal

slow: .venv/developing  ## run the long simulations, such as the coverage of the intervals
	$(BIN)/pytest --numprocesses $(WORKERS) -m slow

lint: .venv/developing  ## style, types and floors
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

.venv/documenting: .venv/installed
	$(BIN)/python -m pip install --quiet --group docs
	@touch $@

docs: .venv/documenting  ## write the tables of docs/operators.md, and build the documentation into site/, links checked
	$(BIN)/python -m gradprobe.operators.page docs/operators.md
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet
	@echo 'built: site/index.html; with search: python3 -m http.server --directory site'

.venv-floor/installed: pyproject.toml tests/floors.py
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' || \
	  { echo "the lowest versions are built for Python 3.11 and 3.12; type: make PYTHON=python3.11 floor"; exit 1; }
	rm -rf .venv-floor
	$(PYTHON) -m venv .venv-floor
	.venv-floor/bin/python -m pip install --quiet --upgrade pip
	.venv-floor/bin/python -m pip install --quiet --group tools --editable . $$($(PYTHON) tests/floors.py)
	@touch $@

floor: .venv-floor/installed  ## the demo, every probe and the quick tests with the lowest versions of all dependencies
	cd .venv-floor && WORKERS=$(WORKERS) ../tests/floor.sh

.venv-package/installed:
	rm -rf .venv-package
	$(PYTHON) -m venv .venv-package
	.venv-package/bin/python -m pip install --quiet --upgrade pip build twine
	@touch $@

package: .venv-package/installed  ## build dist/, check it, and use the wheel in an empty environment; PYTHON=python3.13
	rm -rf dist .venv-package/empty
	.venv-package/bin/python -m build --outdir dist .
	.venv-package/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv .venv-package/empty
	.venv-package/empty/bin/python -m pip install --quiet "$$(ls dist/*.whl)[vlm]"
	cd .venv-package/empty && bin/gradprobe coherence --op vpnoise --k 58 --batches 4 && \
	  bin/gradprobe figures table4_cost

figures: .venv/installed  ## draw every figure of experiments/ from stored answers; gradprobe figures computes the rest
	$(BIN)/gradprobe figures --draw-only

bench: .venv/developing  ## speed, side by side with peers and with the bare forward pass
	@for file in benchmarks/bench_*.py; do echo "== $$file"; $(BIN)/python $$file || exit 1; done

gpu:  ## the campaign on a GPU, with PYTHON and its packages as they are; ARGS="--only a,c" (docs/gpu.md)
	PYTHONPATH=.$${PYTHONPATH:+:$$PYTHONPATH} $(PYTHON) benchmarks/gpu.py $(ARGS)

clean:  ## remove the virtual environment and caches
	rm -rf .venv .venv-floor .venv-package dist .pytest_cache .ruff_cache .mypy_cache .import_linter_cache .hypothesis
