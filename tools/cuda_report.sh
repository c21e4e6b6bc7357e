#!/usr/bin/env bash
# Compile the CUDA kernels for every architecture and write docs/cuda-report.md; arguments go to tools/cuda_report.py.
# Exits with 3 and the reason where there is no nvcc.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH="$PWD/.venv/bin:$PATH:/usr/local/cuda/bin"
command -v nvcc >/dev/null || { echo "skipped: nvcc is not installed" >&2; exit 3; }

build=build/cuda
mkdir -p $build
# Without the variable, which may name one architecture for quick tests, all are compiled.
if ! (cd plugins && HSM_CUDA_ARCHITECTURES= cmake --preset cuda &&
    cmake --build --preset cuda --parallel "${JOBS:-2}") >$build.log 2>&1; then
    tail -40 $build.log >&2
    exit 1
fi
exec python tools/cuda_report.py --library $build/tensorrt/libhsm_tensorrt.so --dump $build/tests/cuda/hsm_dump_launches "$@"
