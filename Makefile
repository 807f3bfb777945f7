# Works on a fresh machine with Python 3.11 or newer, make and pip. `make test WORKERS=4` uses more cores.
PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 3
BIN = $(VENV)/bin
FACTS = settings.ini setup.py pyproject.toml

export TF_CPP_MIN_LOG_LEVEL ?= 3

.PHONY: help demo test test-keras test-jax check format export notebooks docs bench hooks clean

help: ## these lines
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/'

$(VENV)/pyvenv.cfg:
	$(PYTHON) -m venv $(VENV)

$(VENV)/demo.done: $(VENV)/pyvenv.cfg $(FACTS)
	@echo "Installing transferlit and its demo; this takes a few minutes the first time."
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[demo]"
	@touch $@

$(VENV)/dev.done: $(VENV)/pyvenv.cfg $(FACTS)
	@echo "Installing transferlit and the tools to develop it; this takes a few minutes the first time."
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[dev,demo,remote]"
	@touch $@

demo: $(VENV)/demo.done ## the main job on real digits: train, save, restore, freeze, cache, compare
	$(BIN)/transferlit demo

test: $(VENV)/dev.done ## every notebook and the tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-keras: $(VENV)/dev.done ## the core tests on another Keras: make test-keras VERSION=3.7 (or nightly)
	@test -n "$(VERSION)" || { echo "Say which: make test-keras VERSION=3.7"; exit 2; }
	bash tools/test_keras.sh "$(VERSION)" $(BIN)/python

test-jax: ## the JAX backend in an environment without TensorFlow (make test-jax BACKEND=torch for PyTorch)
	bash tools/test_backend.sh $(or $(BACKEND),jax) $(PYTHON)

check: $(VENV)/dev.done ## notebooks clean, package and docs in step with them
	$(BIN)/python tools/notebooks.py check
	$(BIN)/ruff format --check -q nbs
	$(BIN)/ruff check -q nbs
	$(BIN)/ruff check -q --isolated --select F401,F811,F821,F841 transferlit
	$(BIN)/python tools/exported.py
	$(BIN)/python tools/docs.py --check

format: $(VENV)/dev.done ## lay out the code in the notebooks
	$(BIN)/ruff check -q --fix nbs
	$(BIN)/ruff format -q nbs

export: $(VENV)/dev.done ## write the package from the notebooks
	$(BIN)/nbdev-export

notebooks: $(VENV)/dev.done ## run all notebooks and store their outputs (those of long forms are kept)
	$(BIN)/python tools/notebooks.py run --save

docs: $(VENV)/dev.done ## render the site to docs/ and write README.md
	$(BIN)/python tools/docs.py

bench: $(VENV)/dev.done ## run the long forms (speed, little data) in full and store their outputs
	$(BIN)/python -m pip install -q --disable-pip-version-check -e ".[bench]" || echo "bench extra not installed: its rows are left out"
	$(BIN)/python tools/notebooks.py bench

hooks: $(VENV)/dev.done ## git hooks that keep notebooks clean
	$(BIN)/nbdev-install-hooks

clean: ## everything that make made, but docs/ and the package
	rm -rf $(VENV) .keras-* .backend-* build dist *.egg-info _proc _demo .pytest_cache
