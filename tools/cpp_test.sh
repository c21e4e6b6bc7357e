#!/usr/bin/env bash
# Build the C++ tests with a preset of plugins/CMakePresets.json and run them: release, asan or tsan.
set -euo pipefail
cd "$(dirname "$0")/../plugins"
preset=${1:-release}
log=../build/cpp-$preset.log
mkdir -p ../build
if ! { cmake --preset "$preset" && cmake --build --preset "$preset" --parallel 2; } >"$log" 2>&1; then
    tail -40 "$log" >&2
    exit 1
fi
ctest --preset "$preset" --progress
