# make demo: sets itself up, pre-trains a small model on the embedded data, asks it every task.
# make test: sets itself up, runs the tests.
PYTHON ?= python3
BIN = .venv/bin

.PHONY: demo test env lint clean

demo: env
	$(BIN)/polytask demo --out demo

# A thread a process: threads of two that share the cores wait for each other, which takes half as long again.
test: env
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

env: .venv/ready

.venv/ready: constraints.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit("polytask needs Python 3.11 or newer; name one with: make PYTHON=python3.12") if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps --requirement constraints.txt
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

lint: env
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

clean:
	rm -rf .venv demo
