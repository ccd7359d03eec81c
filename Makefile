# One environment for everything. A fresh machine needs Python >= 3.10 and make, nothing else.
#   make install VENV=/somewhere PYTHON=python3.12     where it lives, what makes it

PYTHON ?= python3
VENV ?= .venv
WORKERS ?= 2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
TORCH := torch==2.13.0
EXTRAS := text,vision,audio,dev

# Some machines tell Python not to keep what it compiles. Each worker of the tests would compile all of it again, and so
# would each process that tests start.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo demo-clm test test-slow test-browser test-versions lint types compat playground docs docs-serve notebooks api check gpu format release

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' Makefile

install: $(STAMP)  ## create $(VENV) and install the package with all extras

# torch goes first and alone, so that a build of that version that is already at hand (a CPU wheel, say) is taken.
# The stamp makes a second run start at once; a change of what is installed makes it run again.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install '$(TORCH)'
	$(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS)]'
	touch $@

demo: $(STAMP)  ## train, convert and use a small masked language model (about five minutes)
	$(BIN)/python examples/demo/mlm.py

demo-clm: $(STAMP)  ## train, score, convert and use a small causal language model (about five minutes)
	$(BIN)/python examples/demo/clm.py

test: $(STAMP)  ## the fast tests, offline
	$(BIN)/python -m pytest -n $(WORKERS)

test-slow: $(STAMP)  ## the tests that take long
	$(BIN)/python -m pytest -n $(WORKERS) -m "slow and not gpu"

test-browser: $(STAMP)  ## the app and the playground in Chromium; skipped where it is missing
	$(BIN)/python -m pytest -m slow tests/app -rs

test-versions:  ## the fast tests on each Python at hand, with lowest and newest dependencies (hours)
	$(PYTHON) .ci/versions.py

lint: $(STAMP)  ## formatting and lint rules
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m ruff check .

types: $(STAMP)  ## static types
	$(BIN)/python -m mypy

# Recorded checkpoints of the published format; they live beside the clone where they exist.
compat: $(STAMP)  ## the published checkpoints, where they are present
	@if [ -f ../shared/compat/check.py ]; then $(BIN)/python ../shared/compat/check.py; \
	else echo "../shared/compat/check.py is not here: skipped"; fi

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install -c constraints.txt -e '.[$(EXTRAS),docs]'
	touch $@

PLAYGROUND = $(if $(wildcard build/playground/models.json),--playground build/playground)
CLM ?= logs/demo-clm/model
MLM ?= logs/demo/model

playground: $(STAMP)  ## make the models of the site's playground (run demo and demo-clm first), for the next `make docs`
	$(BIN)/python docs/build_playground.py --clm $(CLM) --mlm $(MLM)

# Without REPOSITORY, links to files that are no pages are plain text.
docs: $(DOCS_STAMP)  ## build the documentation site in build/site: broken links and unknown names fail
	$(BIN)/python docs/build_site.py $(if $(REPOSITORY),--repository '$(REPOSITORY)') $(PLAYGROUND)

docs-serve: $(DOCS_STAMP)  ## show the site at http://localhost:8000; start it again after a change
	$(BIN)/python docs/build_site.py --serve $(PLAYGROUND)

notebooks: $(DOCS_STAMP)  ## write examples/notebooks/*.ipynb from their scripts, with what they print and draw
	$(BIN)/python examples/notebooks/generate.py

api: $(STAMP)  ## breaking changes of the public API since the last release
	$(BIN)/python .ci/api.py

check: test test-browser lint types compat docs api  ## all that CI runs

# No environment is made where $(PYTHON) has a torch that sees the GPU. GPU_FLAGS: those of the script.
gpu:  ## tests, benchmarks and a training on an NVIDIA GPU, in nine minutes, to benchmarks/results/gpu.md
	$(PYTHON) benchmarks/gpu.py --venv '$(VENV)' $(GPU_FLAGS)

format:  ## rewrite the files as `make lint` wants them
format: $(STAMP)
	$(BIN)/python -m ruff check --fix .
	$(BIN)/python -m ruff format .

release: $(STAMP)  ## all that must hold before a version is tagged (docs/versioning.md)
	$(BIN)/python .ci/release.py
