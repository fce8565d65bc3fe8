# Every target sets itself up: .venv with pinned versions, torch first.
.PHONY: demo test test-fast check format bench architectures train-bundled clean

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export HF_HUB_OFFLINE = 1
export OMP_NUM_THREADS = 2
export TOKENIZERS_PARALLELISM = false

demo: $(READY)
	rm -rf deadhead-demo deadhead-demo.partial
	$(BIN)/deadhead demo

test: $(READY)
	$(BIN)/python -m pytest -n 2

test-fast: $(READY)
	$(BIN)/python -m pytest -n 2 -m "not slow"

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --level error

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python benchmarks/greedy.py
	$(BIN)/python benchmarks/memory.py
	$(BIN)/python benchmarks/similarity.py

architectures: $(READY)
	$(BIN)/python scripts/architectures.py

train-bundled: $(READY)
	$(BIN)/python scripts/train_bundled.py

$(READY): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet "torch==$$(sed -n 's/^torch==//p' constraints.txt)"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(READY)

clean:
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache
