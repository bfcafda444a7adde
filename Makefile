# make train   set up .venv and run the main job on the embedded data, minutes on a CPU
# make compare   train the quickstart with no, a random and the PGS mask, and compare what each is worth
# make test    set up .venv and run the tests
# make test-torch   set up .venv with PyTorch and wandb, run the tests against OpenCLIP, transformers, clip-benchmark, wandb
# make lint    ruff: lint and format check
# make types   mypy
# make wheel   build the package into build/wheel
# make docs    build the documentation site into build/site
# make notebook   run notebooks/inspect_masks.ipynb in place, so that it is committed with outputs
#
# ARGS passes flags on: make train ARGS='--config.total_steps=100'

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PYTEST := $(BIN)/python -m pytest --numprocesses=2 --dist=loadfile --no-loadscope-reorder

# Large pages for the large buffers that each step allocates anew on a CPU: see docs/performance.md.
export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1

.PHONY: help train compare test test-torch lint types format notebook wheel docs
.DEFAULT_GOAL := help

help:
	@sed -n '/^PYTHON/q; s/^# //p' Makefile

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 11) <= v <= (3, 13) else f"error: Python 3.11, 3.12 or 3.13 is needed, this is {v[0]}.{v[1]}: make PYTHON=python3.13")'
	$(PYTHON) -m venv $(VENV)

# The packages of requirements.txt and all that they need, with the checksums of their files.
$(VENV)/.run: requirements.lock | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	@touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-dev.txt
	@touch $@

train: $(VENV)/.run
	$(BIN)/python main.py $(ARGS)

compare: $(VENV)/.run
	$(BIN)/python -m benchmarks.compare --strategies=none,random,pgs $(ARGS)

test: $(VENV)/.dev
	$(PYTEST) $(ARGS)

$(VENV)/.torch: $(VENV)/.dev requirements-torch.txt requirements-wandb.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-torch.txt -r requirements-wandb.txt
	@touch $@

TORCH_TESTS := tests/convert/test_convert_torch.py tests/convert/test_authors_weights.py tests/evaluate/test_clip_benchmark.py tests/input_pipeline/test_tokenizer_torch.py tests/run/test_tracker.py

# -p imports torchvision before TensorFlow: with TensorFlow 2.21's LLVM in the process already, Triton's crashes.
test-torch: $(VENV)/.torch
	$(PYTEST) -p torchvision $(TORCH_TESTS) $(ARGS)

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

notebook: $(VENV)/.dev
	$(BIN)/jupyter-execute --inplace notebooks/inspect_masks.ipynb

# setuptools would put files that build/lib still holds from an older build into the wheel.
wheel: | $(BIN)/python
	rm -rf build/lib build/wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir=build/wheel .

$(VENV)/.docs: requirements-docs.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -r requirements-docs.txt
	@touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
