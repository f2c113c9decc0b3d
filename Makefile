# The entry points that people use; CI calls the same.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: run test quick campaign check lint fmt bench wheels install clean

run: $(INSTALLED)          ## set up and run the default study
	$(BIN)/sweeper run studies/depth_vs_ffn.yaml

test: $(INSTALLED)         ## set up and run every test
	$(BIN)/python -m pytest -m "not campaign"

quick: lint                ## while you work: lint, and the tests that need neither Ray nor a compiler
	$(BIN)/python -m pytest tests/unit -m "not campaign and not compiler"

campaign: $(INSTALLED)     ## what takes too long for `test`: kills, clusters, thousands of trials, search quality, calibration
	$(BIN)/python -m pytest -m campaign --numprocesses 0 --capture no
	SWEEPER_TEST_EXAMPLES=all $(BIN)/python -m pytest tests/unit/planning/test_planning_solver.py tests/unit/planning/test_planning_feasible.py tests/unit/model/test_transformer.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/search_quality.py
	$(BIN)/python benchmarks/calibration/verdicts.py
	$(BIN)/python benchmarks/decisions/decisions.py
	$(BIN)/python benchmarks/calibration_surrogate.py

lint: $(INSTALLED)         ## style, types, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test           ## what CI runs

fmt: $(INSTALLED)          ## rewrite to the house style
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED)        ## measure this machine; results go to benchmarks/results/
	$(BIN)/python benchmarks/plan_speed.py
	$(BIN)/python benchmarks/scale/plan_scale.py

wheels:                    ## what benchmarks/gpu_plan.py needs on a CUDA machine without internet, in wheels/
	$(PYTHON) benchmarks/gpu_plan.py --prepare

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt 'torch==2.13.0'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:                     ## remove the environment (runs/ stays)
	rm -rf $(VENV)
