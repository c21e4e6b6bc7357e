# make demo | test | triton-test | coverage | check-all | lint | zoo | bench | cuda-report | gpu-test | wheel | clean
# (`make setup` is implied by each)
#
# PYTHON   interpreter that .venv is made with          (default: python3)
# JOBS     parallel test processes                      (default: 2)
# HSM_CUDA_ARCHITECTURES  GPUs to compile kernels for, where nvcc is (default: this machine's, or one to test with;
#                         `make wheel` compiles for all)

PYTHON ?= python3
JOBS ?= 2
BIN := .venv/bin
# One thread a process: the tests run $(JOBS) processes side by side.
TEST_ENV := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1
PYTEST := $(TEST_ENV) $(BIN)/python -m pytest

export HSM_CUDA_ARCHITECTURES ?= $(if $(shell command -v nvidia-smi),native,86-real)

NATIVE := $(shell find plugins -type f -not -path '*/__pycache__/*')

.PHONY: demo test triton-test coverage cpp-test check-all lint zoo bench cuda-report gpu-test wheel setup clean
.DEFAULT_GOAL := test

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt tools/setup.sh downloads.lock $(NATIVE)
	PYTHON=$(PYTHON) bash tools/setup.sh
	@touch $@

demo: setup
	$(BIN)/hsm-export demo

test: setup lint cpp-test triton-test
	$(PYTEST) -n $(JOBS) --dist worksteal --durations=30 --durations-min=3 -m "not slow"

# The backward passes for CUDA, by Triton's interpreter. Triton lies apart: PyTorch does other things where it is there.
TRITON := .cache/triton
MARKS ?= not slow
triton-test: setup
	[ -f $(TRITON)/.ready ] || { $(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade --no-deps \
		--target $(TRITON) --constraint constraints.txt triton && touch $(TRITON)/.ready; }
	PYTHONPATH=$(TRITON) $(PYTEST) -q -n $(JOBS) -m "$(MARKS)" $(wildcard plugins/hsm_operators/*/test_fused.py) \
		tests/operators/test_triton_compiler.py

# Apart, as it takes the tests almost twice as long.
coverage: setup cpp-test
	$(PYTEST) -n $(JOBS) --dist worksteal -m "not slow" --cov --cov-report=term

# PATH: the environment brings cmake and ninja where the system has none.
cpp-test: setup
	PATH="$(CURDIR)/$(BIN):$$PATH" bash tools/cpp_test.sh release

check-all: setup lint
	$(BIN)/python tools/check_all.py

lint: setup
	$(BIN)/clang-format --dry-run --Werror $(filter %.h %.cc,$(NATIVE)) $(wildcard examples/mixers/*/*.cc)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

zoo: setup
	$(BIN)/python -m hsm_models.zoo.recipes --all

# A peer; without it, as on a machine that is offline, the others are measured.
bench: setup cpp-test
	-$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt taylor-series-linear-attention openvino
	$(BIN)/python benchmarks/run_all.py

# For the first person with a GPU: kernels, engines, numbers and times, in docs/gpu-report.md. Without a set-up, such as
# on a machine that is offline, PYTHON runs it from the sources, with what it has; what is missing is skipped by name.
gpu-test:
	PYTHONPATH=exporter:models:plugins $(or $(wildcard $(BIN)/python),$(PYTHON)) tools/gpu_report.py

# What the CUDA kernels use on every architecture, from compiled code: docs/cuda-report.md.
cuda-report: setup
	JOBS=$(JOBS) bash tools/cuda_report.sh

wheel: setup
	HSM_CUDA_ARCHITECTURES= $(BIN)/pip wheel --quiet --no-deps --wheel-dir dist .

clean:
	rm -rf build dist demo-output .pytest_cache .mypy_cache .ruff_cache .coverage .coverage.*
