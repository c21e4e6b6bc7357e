#!/usr/bin/env bash
# Compile the CUDA kernels for every architecture and write docs/cuda-report.md; arguments go to tools/cuda_report.py.
# Exits with 3 and the reason where there is no nvcc.
set -euo pipefail
cd "$(dirname "$0")/.."

export PATH="$PWD/.venv/bin:$PATH:/usr/local/cuda/bin"
command -v nvcc >/dev/null || { echo "skipped: nvcc is not installed" >&2; exit 3; }

build=build/cuda
mkdir -p $build
if ! { cmake -S plugins -B $build -G Ninja -DCMAKE_BUILD_TYPE=Release -DHSM_TESTS=ON -DHSM_CUDA=ON \
    -DHSM_CUDA_ARCHITECTURES="75-real;80-real;86-real;89-real;90-real;100-real;120" &&
    cmake --build $build --parallel "${JOBS:-2}" --target hsm_tensorrt hsm_dump_launches; } >$build.log 2>&1; then
    tail -40 $build.log >&2
    exit 1
fi
exec python tools/cuda_report.py --library $build/tensorrt/libhsm_tensorrt.so --dump $build/tests/cuda/hsm_dump_launches "$@"
