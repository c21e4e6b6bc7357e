#!/usr/bin/env bash
# Build the C++ tests with a preset of plugins/CMakePresets.json and run them: release, asan, tsan, aarch64, gpu [file of
# results], or fuzz [seconds for each target]. Exits with 3 and the reason when a preset's tools are not installed.
set -euo pipefail
preset=${1:-release}
results=$(realpath -m "${2:-build/gpu-tests.json}")
cd "$(dirname "$0")/../plugins"
seconds=${2:-60}
build=../build/native-$preset
# As in the Makefile: the release build goes on where `make setup` built the libraries.
export HSM_CUDA_ARCHITECTURES=${HSM_CUDA_ARCHITECTURES:-$(command -v nvidia-smi >/dev/null && echo native || echo 86-real)}
log=../build/cpp-$preset.log
mkdir -p ../build

missing() {
    echo "skipped: $1" >&2
    exit 3
}

case $preset in
aarch64)
    for tool in aarch64-linux-gnu-g++ qemu-aarch64; do
        command -v $tool >/dev/null || missing "$tool is not installed (Debian: g++-aarch64-linux-gnu qemu-user)"
    done
    ;;
gpu)
    command -v nvidia-smi >/dev/null || missing "this machine has no NVIDIA driver"
    command -v nvcc >/dev/null || [ -x /usr/local/cuda/bin/nvcc ] || missing "nvcc is not installed (the CUDA toolkit)"
    ;;
fuzz)
    CXX=$(compgen -c clang++ | sort -V | tail -1)
    [ -n "$CXX" ] || missing "clang++ is not installed (Debian: clang-19 libclang-rt-19-dev)"
    export CXX
    ;;
esac

if ! { cmake --preset "$preset" && cmake --build --preset "$preset" --parallel "${JOBS:-2}"; } >"$log" 2>&1; then
    tail -40 "$log" >&2
    exit 1
fi

if [ "$preset" = fuzz ]; then
    fuzz() { # TARGET LONGEST FOLDER...: the first folder keeps what is found from run to run
        local target=$1 longest=$2
        mkdir -p "$3"
        shift 2
        "$build/tests/fuzz/$target" -max_total_time="$seconds" -max_len="$longest" -len_control=0 -timeout=600 \
            -rss_limit_mb=2000 -print_final_stats=1 -verbosity=0 -artifact_prefix="$build/$target-" "$@"
    }
    fuzz hsm_fuzz_operators 256 "$build/corpus"
    fuzz hsm_fuzz_manifest 8192 "$build/corpus-manifest" tests/fuzz/seeds/manifest
    exit
fi

# The CUDA kernels on the GPU itself.
if [ "$preset" = gpu ]; then
    exec "$build/tests/cuda/hsm_cuda_gpu_tests" --gtest_output="json:$results"
fi

# The tests of the ONNX Runtime library run in the wheel's own libonnxruntime.so, where there is one.
wheel=$(compgen -G "$PWD/../.venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.so*" | head -1 || true)
if [ "$preset" != aarch64 ] && [ -n "$wheel" ]; then
    export HSM_TEST_ONNXRUNTIME=${HSM_TEST_ONNXRUNTIME:-$wheel}
fi
# The TensorRT back end is shown to the wheels' real libraries, and to CUDA's, where there are some.
nvinfer=$(compgen -G "$PWD/../.venv/lib/python3*/site-packages/tensorrt_*_libs/lib*.so.*" |
    grep -E '/(libnvinfer_lean|libtensorrt_rtx)\.so\.[0-9]+$' | paste -sd: || true)
cudart=$(compgen -G "${CUDA_HOME:-/usr/local/cuda}/lib*/libcudart.so.1[0-9]" | head -1 || true)
if [ "$preset" = release ]; then
    export HSM_TEST_NVINFER=${HSM_TEST_NVINFER:-$nvinfer} HSM_TEST_CUDART=${HSM_TEST_CUDART:-$cudart}
fi
ctest --preset "$preset" --progress --parallel "${JOBS:-2}"
