# Needs Python 3.11 or later, make and git, and g++ for the tests, which run the CUDA kernels on the CPU. Everything is
# installed into .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What the tests are installed with: EXTRA=test-torch has them ask torch too.
EXTRA := test

# What the CUDA kernels have to pass too, on the CPU here: the contract, and what else asks for the device under test.
ON_KERNELS := $(patsubst %,tests/test_%.py,distance certificate fixed_point randomness one_answer input \
	sklearn_parity cosine minibatch sparse progress zeros flags fuzz fuzz_minibatch)

# As many processes as processors, each taking tests from the other once it has none left. Threads of OpenMP do not
# spin while they wait, since somebody else has a use for the processor.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n logical --dist worksteal

# How long `make fuzz` tries each property, in seconds, and on what: cpu, kernels, or cuda.
SECONDS := 600
ON := cpu

# What of scikit-learn's own tests has to pass with its k-means computed by gpukmeans (tests/accel_plugin.py names the
# exceptions). None of our options, which are stricter.
UNDER_ACCEL := sklearn.cluster sklearn.mixture sklearn.preprocessing.tests.test_discretization sklearn.compose \
	sklearn.tests.test_pipeline

.PHONY: demo test test-accel fuzz lint clean

demo: $(VENV)/demo.stamp
	$(BIN)/gpukmeans demo --out demo

test: $(VENV)/test.stamp
	$(PYTEST)
	$(PYTEST) --device kernels $(ON_KERNELS)
	$(MAKE) test-accel

test-accel: $(VENV)/test.stamp
	PYTHONPATH=tests GPUKMEANS_DEVICE=cpu $(PYTEST) -q -c /dev/null --rootdir=$(VENV) -p no:cacheprovider -W ignore \
		-p accel_plugin --pyargs $(UNDER_ACCEL)

fuzz: $(VENV)/test.stamp
	$(PYTEST) --device $(ON) --fuzz $(SECONDS) tests/test_fuzz.py tests/test_fuzz_minibatch.py

lint: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

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
