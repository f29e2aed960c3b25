# `make demo` and `make test` need Python 3.10 or later and a C++ compiler; each makes its own .venv.
PYTHON ?= python3
TORCH ?= 2.13.0
VENV ?= .venv
BIN = $(VENV)/bin
RUN = $(BIN)/python
PYTEST = $(RUN) -m pytest
# Tests run in two processes of one thread each: their tensors are small, waking threads for them takes longer.
TESTS = OMP_NUM_THREADS=1 $(PYTEST) -n 2 --dist worksteal

.PHONY: demo test test-torch bench peers gpu ptxas lint asan wheel clean reproduce-same reproduce-struchis \
	reproduce-rcgrad reproduce-gcnet reproduce-nbfnet reproduce-systems reproduce-links reproduce-sheaf scale

# Torch is pinned: a plain `torch` would bring the largest build there is.
$(VENV)/torch-$(TORCH):
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH) numpy "setuptools>=77" "pybind11>=3" ninja
	touch $@

# An editable install: Python sources are used as they are, C++ is built again where it changed.
$(VENV)/built: $(VENV)/torch-$(TORCH) pyproject.toml setup.py $(shell find csrc -type f)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation -e ".[test,bench,lint]"
	touch $@

demo: $(VENV)/built
	$(RUN) -m fastgmtl train --out results/demo --overwrite

test: $(VENV)/built
	$(RUN) -m fastgmtl info
	$(TESTS) $(ARGS)

# One wheel, tested under another PyTorch: make test-torch TORCH=2.9.0 VENV=.venv-2.9
test-torch: $(VENV)/torch-$(TORCH) wheel
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(ls dist/fastgmtl-*.whl)[bench]"
	cd tests && ../$(RUN) -m pytest -c ../pyproject.toml --rootdir .. . -m "not cuda_host"

wheel:
	rm -rf dist
	$(PYTHON) -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

bench: $(VENV)/built
	$(PYTEST) bench $(ARGS)

# All that needs a GPU, in one call; without one the processor stands in.
gpu:
	bench/gpu.sh

# Registers, spills and shared memory of the kernels that were built.
ptxas: $(VENV)/built
	$(RUN) -m bench.ptxas

# torch-scatter and torch-sparse, peers of the benches: from FASTGMTL_WHEELS if it holds them, else built (an hour).
peers: $(VENV)/built
	$(BIN)/python -m pip install --quiet --no-deps --no-build-isolation $(if $(FASTGMTL_WHEELS),--no-index --find-links $(FASTGMTL_WHEELS)) torch-scatter torch-sparse

# Days on one core for all of it; make reproduce-rcgrad ARGS="--data clintox --epochs 10 --seeds 3 --minutes 60".
# Trainings that were done are kept in results/rcgrad.csv and not repeated.
reproduce-rcgrad: $(VENV)/built
	$(RUN) -m scripts.reproduce_rcgrad $(ARGS)

# Tables of SAME into docs/reproduction.md; hours with as many epochs as the paper has: make reproduce-same ARGS="--epochs 1000"
reproduce-same: $(VENV)/built
	$(RUN) -m scripts.reproduce_same $(ARGS)

# StrucHIS and its baselines on DBLP; make reproduce-struchis ARGS="--epochs 300 --seeds 3"
reproduce-struchis: $(VENV)/built
	$(RUN) -m scripts.reproduce_struchis $(ARGS)

# GCNet, its ablations and baselines; make reproduce-gcnet ARGS="--epochs 20 --seeds 1 --data tox21"
reproduce-gcnet: $(VENV)/built
	$(RUN) -m scripts.reproduce_gcnet $(ARGS)

# NBFNet on UMLS, Kinships and Nations; hours on FB15k-237: make reproduce-nbfnet ARGS="--data fb15k237 --seeds 1"
reproduce-nbfnet: $(VENV)/built
	$(RUN) -m scripts.reproduce_nbfnet $(ARGS)

# Links of Cora and CiteSeer by common neighbours; make reproduce-links ARGS="--epochs 100 --seeds 3"
reproduce-links: $(VENV)/built
	$(RUN) -m scripts.reproduce_links $(ARGS)

# Neural sheaf diffusion on Cora and CiteSeer; make reproduce-sheaf ARGS="--epochs 100 --seeds 3"
reproduce-sheaf: $(VENV)/built
	$(RUN) -m scripts.reproduce_sheaf $(ARGS)

# DAGNN, virtual nodes, Virgo, influence, hypernetwork, self-tuning; make reproduce-systems ARGS="--seeds 3"
reproduce-systems: $(VENV)/built
	$(RUN) -m scripts.reproduce_systems $(ARGS)

# The table of docs/scale.md; an hour, 20 GB of memory and 7 GB of disk for ARGS="--edges 1e5 1e6 1e7 1e8".
scale: $(VENV)/built
	$(RUN) -m scripts.measure_scale $(ARGS)

lint: $(VENV)/built
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $$(find csrc tests -name '*.cpp' -o -name '*.h' -o -name '*.cu' -o -name '*.cuh')
	$(BIN)/mypy

asan: $(VENV)/built
	PYTHON=$(abspath $(RUN)) scripts/asan.sh

clean:
	rm -rf build dist results *.egg-info fastgmtl/_C*.so $(VENV)
