# Two commands: `make demo` and `make test`. Both set everything up on first use; later runs install nothing.
#
# PYTHON   the interpreter to build the environment with (Python >= 3.10)
# VENV     where the environment lives (in the checkout, not tracked)
# CACHE    where downloaded wheels are kept, shared by all clones of one user
PYTHON ?= python3
VENV ?= .venv
CACHE ?= $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/fapn_d2
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
INSTALL_INPUTS := setup.py tools/setup_env.sh $(wildcard requirements/*.txt)

.PHONY: help install demo test lint format test-slow test-gpu benchmark clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

install: $(STAMP)  ## environment with pinned torch, Detectron2 and this package

$(STAMP): $(INSTALL_INPUTS)
	@bash tools/setup_env.sh "$(PYTHON)" "$(VENV)" "$(CACHE)"
	@touch $@

demo: $(STAMP)  ## train FaPN and FPN on generated shapes, write report.html
	@$(BIN)/python tools/demo.py

lint: $(STAMP)  ## ruff: rules and formatting
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

format: $(STAMP)  ## ruff: rewrite files in the project's format
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

test: lint  ## what CI runs: linting and every test that needs no GPU and few minutes
	@OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist worksteal -m "not slow and not gpu" tests

test-slow: $(STAMP)  ## trainings on real images, several minutes each
	@$(BIN)/python -m pytest -m "slow and not gpu" tests

test-gpu: $(STAMP)  ## everything that needs CUDA
	@$(BIN)/python -m pytest -m gpu tests

benchmark: $(STAMP)  ## operators and necks beside their alternatives, and the goals, on whatever device is here
	@$(BIN)/python tools/benchmark.py ops --json output/benchmark_ops.json
	@$(BIN)/python tools/benchmark.py neck --json output/benchmark_neck.json
	@$(BIN)/python tools/benchmark.py goals --json output/benchmark_goals.json

clean:  ## remove the environment and outputs, keep the downloads
	rm -rf $(VENV) output *.egg-info
