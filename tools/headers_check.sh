#!/usr/bin/env bash
# Hold the public headers of the C++ runtime to Doxygen: every warning is an error. Exits with 3 where it is missing.
set -euo pipefail
cd "$(dirname "$0")/../plugins/runtime"
if ! command -v doxygen >/dev/null; then
    echo "skipped: doxygen is not installed (Debian: doxygen)" >&2
    exit 3
fi
output=$(mktemp -d)
trap 'rm -rf "$output"' EXIT
(cat Doxyfile && echo "OUTPUT_DIRECTORY = $output") | doxygen -
