# Each target sets up .venv by itself, from the locks in requirements/, when it is missing or older than what it is made of.

SHELL  := /bin/bash
PYTHON ?= python3
TORCH  ?= cpu
PORT   ?= 8000
BASE   := python:3.11-slim
NAME   ?= $(basename $(notdir $(patsubst %/,%,$(firstword $(TEXT)))))
BIN    := .venv/bin

# PyTorch's own index of CPU builds, so that a machine without a GPU downloads no CUDA. It is one more place to look, for
# torch alone: where it cannot be reached pip soon goes on without it.
TORCH_VERSION := 2.13.0
CPU_INDEX     := https://download.pytorch.org/whl/cpu
INSTALL_cpu   := --no-deps --retries 1 --extra-index-url $(CPU_INDEX) torch==$(TORCH_VERSION)
INSTALL_cuda  := torch==$(TORCH_VERSION)

KERNELS := $(wildcard models/backends/native/*.cpp models/backends/native/*.h training/kernels/*.cpp training/kernels/*.h)

.DEFAULT_GOAL := help
.PHONY: help serve train test sanitize check bench figures format lock base sbom audit clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  TORCH=cuda    with PyTorch's GPU build;  PYTHON=python3.x    with another Python"

# What a purpose needs, each with what the ones before it need: serve has neither PyTorch nor tools, train has PyTorch,
# dev has what tests and checks use. A set-up for the other kind of PyTorch is replaced.
WITH_serve := serve
WITH_train := serve train
WITH_dev   := serve train dev

.venv/.serve .venv/.train .venv/.dev: .venv/.%: requirements/%.txt requirements/uv.txt pyproject.toml setup.py Makefile $(KERNELS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "error: Python 3.11 or newer is needed; name one with PYTHON=python3.x" >&2; exit 1; }
	@test -z "$(filter-out .venv/.torch-$(TORCH),$(wildcard .venv/.torch-*))" || rm -rf .venv
	@test -x $(BIN)/uv || { $(PYTHON) -m venv .venv && $(BIN)/pip install --quiet --require-hashes -r requirements/uv.txt; }
	$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes -r $<
	@test $* = serve || $(MAKE) --no-print-directory .venv/.torch-$(TORCH)
	$(BIN)/pip install --quiet --no-deps --editable .
	@$(BIN)/python -c 'import sys; from models.backends import native; sys.exit(not native.available())' 2> /dev/null \
	  || { echo "The C++ kernels were not built; PyTorch does their work, slower." >&2; \
	       $(MAKE) --no-print-directory .venv/.torch-$(TORCH); }
	@touch $(WITH_$*:%=.venv/.%)

# PyTorch is no part of the locks: its wheels differ from index to index.
.venv/.torch-cpu .venv/.torch-cuda: .venv/.torch-%:
	$(BIN)/pip install --quiet $(INSTALL_$*)
	@touch $@

serve: .venv/.$(if $(filter cuda,$(TORCH)),train,serve) ## serve the checkpoints; PORT=8000
	$(BIN)/python -m app serve --port $(PORT)

train: .venv/.train ## train a model on a text and export it to checkpoints/NAME: TEXT=book.txt [NAME=book] [ARGS=--help]
	@test -n "$(TEXT)" || { echo "usage: make train TEXT=book.txt [NAME=book] [ARGS=--help]" >&2; exit 2; }
	$(BIN)/python -m training train $(TEXT) --out checkpoints/$(NAME) $(ARGS)

test: .venv/.dev ## run the tests, in a process for each core; ARGS="-k sampling"
	$(BIN)/python -m pytest --numprocesses auto --maxprocesses 4 --dist worksteal $(ARGS)

# A copy of the tree has kernels of its own, built so that a read or write outside of memory, or what C++ leaves
# undefined, ends the process. Python itself leaks at its end, and is not what is tested.
SANITIZE  := -fsanitize=address,undefined -fno-sanitize-recover=undefined -fno-omit-frame-pointer -w
SANITIZED := build/sanitize
sanitize: .venv/.dev ## run the kernels' tests under address and undefined-behaviour sanitizers (GCC)
	rm -rf $(SANITIZED) && mkdir -p $(SANITIZED)
	tar -c --exclude='*.so' --exclude=__pycache__ app benchmarks carousel checkpoints models tests training \
	  LICENSE README.md pyproject.toml setup.py | tar -x -C $(SANITIZED)
	cd $(SANITIZED) && CFLAGS="$(SANITIZE)" LDFLAGS="$(SANITIZE)" $(CURDIR)/$(BIN)/python setup.py --quiet build_ext --inplace
	cd $(SANITIZED) && export LD_PRELOAD="$$(g++ -print-file-name=libasan.so) $$(g++ -print-file-name=libubsan.so)" \
	  CI=1 ASAN_OPTIONS=detect_leaks=0 UBSAN_OPTIONS=print_stacktrace=1 && \
	  $(CURDIR)/$(BIN)/python -m pytest -p no:cacheprovider tests/models/backends tests/training/kernels $(ARGS) && \
	  $(CURDIR)/$(BIN)/python -m benchmarks.fuzz --cases 4000
	g++ -std=c++20 -O1 -g -ffp-contract=off -pthread $(SANITIZE) tests/models/backends/portable.cpp -o $(SANITIZED)/portable
	$(SANITIZED)/portable > /dev/null

check: .venv/.dev ## check formatting, lint, types, and that the set-up is whole
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pip check

bench: .venv/.dev ## measure this machine: benchmarks/results; ARGS="--quick", ARGS="--help" lists options
	$(BIN)/python -m benchmarks $(ARGS)

figures: .venv/.dev ## write the tables of README.md and docs/ anew from benchmarks/results
	$(BIN)/python -m benchmarks.tables

format: .venv/.dev ## format the code, mend what ruff can mend
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

# The locks are of all platforms and Pythons at once, so that pip can use them anywhere: pip install --require-hashes -r …
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-annotate --upgrade \
             --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" --excludes requirements/excluded.in
lock: .venv/.serve ## renew the locks in requirements/ from pyproject.toml
	$(COMPILE) pyproject.toml requirements/torch.in --extra dev --output-file requirements/dev.txt
	$(COMPILE) pyproject.toml requirements/torch.in --extra train --constraint requirements/dev.txt --output-file requirements/train.txt
	$(COMPILE) pyproject.toml --constraint requirements/dev.txt --output-file requirements/serve.txt
	echo uv | $(COMPILE) - --output-file requirements/uv.txt
	printf '%s\n' cyclonedx-bom pip-audit | $(COMPILE) - --output-file requirements/supply.txt

# Asks Docker's registry, which is the only place that says it.
base: ## fix the image's base by the digest that it has today
	@digest=$$(docker buildx imagetools inspect $(BASE) --format '{{.Manifest.Digest}}') \
	  && sed -i 's|^ARG BASE=.*|ARG BASE=$(BASE)@'"$$digest|" Dockerfile && grep '^ARG BASE=' Dockerfile

# The tools that look at the locks have an environment of their own: what they need is no part of what they look at.
SUPPLY := build/supply
$(SUPPLY)/.installed: requirements/supply.txt .venv/.serve
	$(BIN)/uv venv --quiet --clear $(SUPPLY)
	$(BIN)/uv pip install --quiet --python $(SUPPLY)/bin/python --require-hashes -r $<
	@touch $@

sbom: $(SUPPLY)/.installed ## list what serving is made of, as CycloneDX: build/sbom.json
	PYTHONWARNINGS=ignore $(SUPPLY)/bin/cyclonedx-py requirements requirements/serve.txt --pyproject pyproject.toml \
	  --output-reproducible --output-file build/sbom.json

# Strict: a package that cannot be looked up is a failure, and not passed over.
audit: $(SUPPLY)/.installed ## compare every locked package with the published advisories
	@$(SUPPLY)/bin/pip-audit --strict --disable-pip --progress-spinner off $(addprefix -r ,$(wildcard requirements/*.txt)) \
	  || { echo "error: advisories were found, or could not be asked for: see above. The latter says nothing of the packages;" \
	       "repeat it where PyPI's JSON API can be reached" >&2; exit 1; }

clean: ## remove the set-up and the caches
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis build *.egg-info
