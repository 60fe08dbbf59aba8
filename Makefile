# Each target sets up .venv by itself when it is missing or older than pyproject.toml.
#   make serve [PORT=8000]                       serve the checkpoints
#   make train TEXT=book.txt [NAME=book]         train a model on a text and export it to checkpoints/NAME
#   make test, make check                        the tests; formatting, lint and types
#   make bench [ARGS="--quick"]                  measure this machine: benchmarks/results; ARGS="--help" lists options
#   TORCH=cuda                                   with PyTorch's GPU build instead of the CPU build
#   make train TEXT=book.txt ARGS="--device cuda"    options of `training train`

SHELL  := /bin/bash
PYTHON ?= python3
TORCH  ?= cpu
PORT   ?= 8000
NAME   ?= $(basename $(notdir $(patsubst %/,%,$(firstword $(TEXT)))))
BIN    := .venv/bin
READY  := .venv/.installed-$(TORCH)

# PyTorch's own index of CPU builds, so that a machine without a GPU downloads no CUDA. It is one more place to look, for
# torch alone: where it cannot be reached pip soon goes on without it.
TORCH_VERSION := 2.13.0
CPU_INDEX     := https://download.pytorch.org/whl/cpu
ifeq ($(TORCH),cpu)
TORCH_REQUIREMENT := --no-deps --retries 1 --extra-index-url $(CPU_INDEX) torch==$(TORCH_VERSION)
else
TORCH_REQUIREMENT := torch==$(TORCH_VERSION)
endif

.PHONY: serve train test check bench format clean

# A set-up for the other kind of PyTorch is replaced.
$(READY): pyproject.toml Makefile $(wildcard models/backends/native/*.cpp models/backends/native/*.h training/kernels/*.cpp training/kernels/*.h)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed; name one with PYTHON=python3.x" >&2; exit 1; }
	@test -z "$(filter-out $(READY),$(wildcard .venv/.installed-*))" || rm -rf .venv
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet $(TORCH_REQUIREMENT)
	$(BIN)/pip install --quiet --editable '.[dev]'
	@touch $@

serve: $(READY)
	$(BIN)/python -m app serve --port $(PORT)

train: $(READY)
	@test -n "$(TEXT)" || { echo "usage: make train TEXT=book.txt [NAME=book] [ARGS=--help]" >&2; exit 2; }
	$(BIN)/python -m training train $(TEXT) --out checkpoints/$(NAME) $(ARGS)

test: $(READY)
	$(BIN)/python -m pytest

check: $(READY)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

bench: $(READY)
	$(BIN)/python -m benchmarks $(ARGS)

format: $(READY)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis *.egg-info
