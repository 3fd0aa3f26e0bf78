# Needs Python 3.11 or later, make and git, and g++ for the tests, which run the CUDA kernels on the CPU. Everything is
# installed into .venv, except what `make real-cupy` builds.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

# What the tests are installed with: EXTRA=test-torch has them ask torch too.
EXTRA := test

# The contract, and what else asks for the device under test.
CONTRACT := $(patsubst %,tests/test_%.py,distance certificate fixed_point randomness one_answer input \
	sklearn_parity cosine minibatch batched whole_fits sparse progress zeros flags)
QUICK := $(patsubst %,tests/test_%.py,distance fixed_point sklearn_parity cosine minibatch sparse zeros)
FUZZ := tests/test_fuzz.py tests/test_fuzz_minibatch.py

# What CuPy itself has to pass too, on the CPU here.
ON_REAL_CUPY := tests/real_cupy/checks.py $(patsubst %,tests/test_%.py,one_answer cosine)

# As many processes as processors, each taking tests from the other once it has none left. Threads of OpenMP do not
# spin while they wait, since somebody else has a use for the processor.
PYTEST := OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -n logical --dist worksteal

# The tests that the wheel takes on its way: what it holds, and that it computes, on its CUDA kernels too.
OF_WHEEL := tests/test_package.py tests/test_modules.py tests/test_import.py

# How long `make fuzz` tries each property, in seconds, and on what: cpu, kernels, or cuda.
SECONDS := 600
ON := cpu

# What of scikit-learn's own tests has to pass with its k-means computed by gpukmeans (tests/accel_plugin.py names the
# exceptions). None of our options, which are stricter.
UNDER_ACCEL := sklearn.cluster sklearn.mixture sklearn.preprocessing.tests.test_discretization sklearn.compose \
	sklearn.tests.test_pipeline

.PHONY: demo test test-quick test-kernels test-accel check real-cupy fuzz lint package docs clean

demo: $(VENV)/demo.stamp
	$(BIN)/gpukmeans demo --out demo

# Everything but the CUDA kernels and what is slow; `make check` has the rest. Numba's passes are compiled first, since
# each process of the tests would do it by itself.
test: $(VENV)/test.stamp
	@echo "Some 7,000 tests, of all but the CUDA kernels and what is slow: several minutes on two processors"
	$(BIN)/gpukmeans warmup --cpu
	$(PYTEST) -m "not kernels and not slow"

# The contract's first rules, on NumPy.
test-quick: $(VENV)/test.stamp
	@echo "Some 1,100 tests of the contract on NumPy: a minute on two processors"
	$(PYTEST) -m "not kernels and not slow" $(QUICK)

# The kernels' own tests; then the contract's once more, on kernels.
test-kernels: $(VENV)/test.stamp
	@echo "Some 1,400 tests of the CUDA kernels, run on the CPU, then those of the contract on them: a quarter of an hour on two processors"
	$(PYTEST) -m "kernels and not slow"
	$(PYTEST) --device kernels $(CONTRACT) $(FUZZ)

check: $(VENV)/test.stamp
	@echo "Some 8,500 tests, then those of the contract on the CUDA kernels, then scikit-learn's own: half an hour on two processors"
	$(BIN)/gpukmeans warmup --cpu
	$(PYTEST)
	$(PYTEST) --device kernels $(CONTRACT) $(FUZZ)
	$(MAKE) test-accel

test-accel: $(VENV)/test.stamp
	PYTHONPATH=tests GPUKMEANS_DEVICE=cpu $(PYTEST) -q -c /dev/null --rootdir=$(VENV) -p no:cacheprovider -W ignore \
		-p accel_plugin --pyargs $(UNDER_ACCEL)

# Built once, in a folder outside of this one.
real-cupy: $(VENV)/test.stamp
	PYTHONPATH=tests $(BIN)/python -m real_cupy.build
	$(PYTEST) --device real-cupy $(ON_REAL_CUPY)

fuzz: $(VENV)/test.stamp
	$(PYTEST) --device $(ON) --fuzz $(SECONDS) $(FUZZ)

lint: $(VENV)/test.stamp
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.citation-file-format CITATION.cff

# What a release uploads: the sdist holds all that git does, and the wheel built of it works alone, as the sdist's own
# tests find. They run on the wheel (which PYTHONPATH puts first), with the libraries of .venv.
package: $(VENV)/test.stamp
	rm -rf dist
	$(BIN)/check-manifest
	$(BIN)/python -m build --quiet --outdir dist
	$(BIN)/python -m pip install --quiet --no-deps --target dist/wheel dist/*.whl
	mkdir dist/source && tar xf dist/*.tar.gz -C dist/source --strip-components 1
	cd dist/source && PYTHONPATH=$(CURDIR)/dist/wheel $(abspath $(BIN))/pytest -q $(OF_WHEEL)
	cd dist/source && PYTHONPATH=$(CURDIR)/dist/wheel $(abspath $(BIN))/python -P -m gpukmeans info

# Editable, so that both share one .venv and neither runs an old copy of the sources. A stamp is older
# than pyproject.toml, or absent, when its installation has to be made again. Compiled as an installed package is: tests
# start hundreds of processes, none of which would where PYTHONDONTWRITEBYTECODE is set, as in many containers.
$(VENV)/demo.stamp: pyproject.toml | $(VENV)/venv.stamp
	$(BIN)/python -m pip install --quiet --editable '.[demo]'
	touch $@

$(VENV)/test.stamp: pyproject.toml | $(VENV)/venv.stamp
	$(BIN)/python -m pip install --quiet --editable '.[$(EXTRA)]'
	$(BIN)/python -m compileall -q gpukmeans
	touch $@ $(VENV)/demo.stamp

$(VENV)/venv.stamp:
	$(PYTHON) -m venv $(VENV)
	touch $@

# Pages to be read in a browser; every warning is an error, and so is a name that leads nowhere.
docs: $(VENV)/test.stamp
	$(BIN)/python -m sphinx -q -W --keep-going -n -b html docs docs/_build/html
	@echo "docs/_build/html/index.html"

clean:
	rm -rf docs/_build docs/gallery docs/generated $(VENV) demo build dist *.egg-info .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
