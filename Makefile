# Needs Python 3.11 or later, make and git, and g++ for the tests, which run the CUDA kernels on the CPU. Everything is
# installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What the tests are installed with: EXTRA=test-torch has them ask torch too.
EXTRA := test

# The contract's tests that the CUDA kernels also pass on the CPU in two minutes; the others take longer there.
ON_KERNELS := tests/test_distance.py tests/test_fixed_point.py tests/test_input.py

.PHONY: demo test lint clean

demo: $(VENV)/demo.stamp
	$(BIN)/gpukmeans demo --out demo

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest
	$(BIN)/python -m pytest --device kernels $(ON_KERNELS)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# Editable, so that both share one .venv and neither runs an old copy of the sources. A stamp is older
# than pyproject.toml, or absent, when its installation has to be made again.
$(VENV)/demo.stamp: pyproject.toml | $(VENV)/venv.stamp
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/test.stamp: pyproject.toml | $(VENV)/venv.stamp
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRA)]'
	touch $@ $(VENV)/demo.stamp

$(VENV)/venv.stamp:
	$(PYTHON) -m venv $(VENV)
	touch $@

clean:
	rm -rf $(VENV) demo build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
