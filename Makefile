# Two commands matter: `make demo` runs the whole product on real data, `make test` proves it.
# Every path here is relative, so a checkout may lie at a path with spaces.

SHELL := /bin/bash
PY := .venv/bin/python
UV := .venv/bin/uv
# What a lock says and nothing else. uv takes a quarter of the time that pip does. With bytecode, importing
# TensorFlow takes a third of the time, also where Python may not write it itself.
INSTALL := VIRTUAL_ENV=.venv $(UV) pip install --quiet --no-deps --compile-bytecode

# The first of python3.11 and python3 that is Python 3.11.
FIND_PYTHON = for p in python3.11 python3; do \
	if command -v $$p >/dev/null 2>&1 && $$p -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; \
	then echo $$p; break; fi; done

export TF_CPP_MIN_LOG_LEVEL ?= 3
export PYTHONUNBUFFERED := 1

.PHONY: demo test test-fast docs setup setup-dev lock lint format types unit help clean \
	bench-quality bench-ablation bench-latency bench-beam bench-serving bench-train

help:
	@echo "make demo    set up, then run the whole product on MovieLens-100K (runs/demo/)"
	@echo "make test    set up, then lint, type-check and test"
	@echo "make test-fast  the same without slow tests, processes and TFX (under two minutes)"
	@echo "make docs    build the documentation as a site (.cache/site/)"
	@echo "make lock    recompile requirements.txt, requirements-dev.txt and requirements-gpu.txt"
	@echo "make bench-quality, bench-ablation, bench-latency, bench-beam, bench-serving, bench-train"
	@echo "             the measurements of docs/benchmarks.md"
	@echo "make format  apply ruff's formatting and safe fixes"

demo: setup
	@$(PY) -m psad_tf.cli demo --output_dir runs/demo --config movielens --overlap_stride 5

test: setup-dev lint types unit

test-fast: setup-dev lint types
	@$(PY) -m pytest -n 2 --dist loadfile --no-loadscope-reorder --ignore=tests/tfx_pipeline -m "not slow and not process and not root"

setup: .venv/runtime.lock

setup-dev: .venv/dev.lock

# A stamp holds a copy of the lock it was made from: setup is skipped while the two are equal.
.venv/runtime.lock: requirements.txt pyproject.toml setup.py
	@if [ -x $(PY) ] && cmp -s requirements.txt $@; then touch $@; else \
	set -e; python="$$($(FIND_PYTHON))"; \
	if [ -z "$$python" ] && command -v uv >/dev/null 2>&1; then python="$$(uv python install --quiet 3.11 2>/dev/null && uv python find 3.11 2>/dev/null)" || true; fi; \
	if [ -z "$$python" ]; then echo "psad: Python 3.11 is needed: install it so that 'python3.11' is on PATH" >&2; exit 2; fi; \
	echo "Setting up .venv from requirements.txt (once; a few minutes)"; \
	rm -rf .venv; "$$python" -m venv .venv || { echo "psad: 'python3.11 -m venv' failed: install the venv module (Debian: apt install python3.11-venv)" >&2; exit 2; }; \
	$(PY) -m pip install --quiet --disable-pip-version-check "$$(grep -E '^uv==' requirements-dev.txt)"; \
	$(INSTALL) -r requirements.txt; \
	$(INSTALL) --no-build-isolation -e .; \
	cp requirements.txt $@; fi

.venv/dev.lock: requirements-dev.txt .venv/runtime.lock
	@if cmp -s requirements-dev.txt $@; then touch $@; else \
	set -e; echo "Adding TFX and the test tools from requirements-dev.txt (once; a few minutes)"; \
	$(INSTALL) -r requirements-dev.txt; \
	cp requirements-dev.txt $@; fi

# The dev lock is compiled first; the runtime lock is then held to its versions.
lock: setup-dev
	$(UV) pip compile --quiet --upgrade --no-emit-index-url --python-version 3.11 requirements-dev.in -o requirements-dev.txt --custom-compile-command "make lock"
	$(UV) pip compile --quiet --no-emit-index-url --python-version 3.11 -c requirements-dev.txt requirements.in -o requirements.txt --custom-compile-command "make lock"
	$(UV) pip compile --quiet --no-emit-index-url --python-version 3.11 -c requirements-dev.txt requirements-gpu.in -o requirements-gpu.txt --custom-compile-command "make lock"

lint: setup-dev
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

format: setup-dev
	@$(PY) -m ruff check --fix .
	@$(PY) -m ruff format .

# mypy and mkdocs see the packages as they are installed, by links.
.PHONY: links
links:
	@mkdir -p .cache/types/psad_tf && rm -rf .cache/types/psad_tf/* && ln -s "$$PWD"/psad_tf/* .cache/types/psad_tf/ && \
	for each in beam export tfx_pipeline configs; do ln -s "$$PWD/$$each" .cache/types/psad_tf/; done

types: setup-dev links
	@$(PY) -m mypy

docs: setup-dev links
	@$(PY) -m mkdocs build --quiet --clean && echo "The documentation is in .cache/site/index.html"

unit: setup-dev
	@command -v java >/dev/null 2>&1 || echo "Java is not installed: the tests on a Flink cluster are left out"
	@# Three processes on two cores: some tests wait for processes of their own.
	@$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder

# Each prints a table and writes benchmarks/results/<name>.json and a picture.
bench-quality bench-ablation bench-latency bench-beam bench-serving bench-train: bench-%: setup-dev
	@$(PY) -m benchmarks.bench_$*

clean:
	rm -rf .venv runs
