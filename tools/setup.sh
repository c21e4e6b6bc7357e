#!/usr/bin/env bash
# Make the environment in .venv; safe to repeat, quick when nothing changed. Needs python3 (3.10 or newer) and pip.
set -euo pipefail
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

fail() {
    printf 'error: %s\nhint: %s\n' "$1" "$2" >&2
    exit 3
}

command -v "$python" >/dev/null || fail "$python is not installed" "install Python 3.10 or newer (Debian: apt-get install python3 python3-pip)"
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' ||
    fail "$("$python" --version) is too old" "install Python 3.10 or newer and run: make PYTHON=python3.10"

make_environment() {
    # Debian splits ensurepip into python3-venv; the package virtualenv, kept inside the checkout, does without it.
    if "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        "$python" -m venv .venv
    else
        "$python" -m pip --version >/dev/null 2>&1 ||
            fail "neither the module venv nor pip is there" "Debian: apt-get install python3-venv (or python3-pip)"
        "$python" -m pip install --quiet --target .cache/virtualenv "virtualenv==21.15.8"
        PYTHONPATH=.cache/virtualenv "$python" -m virtualenv --quiet .venv
    fi
}

[ -x .venv/bin/python ] && .venv/bin/python -c '' 2>/dev/null || { rm -rf .venv; make_environment; }
# torch first and alone: some registries offer its CPU build only by exact version.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch
# Then CMake: the native half is built where `make cpp-test` goes on, and one CMake shall do both.
.venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt cmake ninja
PATH="$PWD/.venv/bin:$PATH" SKBUILD_BUILD_DIR=build/native SKBUILD_CMAKE_DEFINE=HSM_TESTS=ON \
    .venv/bin/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
    --editable ".[cpu,rtx,lean,train,plot,tokenizers,dev]"
# The finder of the editable installation knows hsm_operators; its folder on sys.path would make packages of plugins/*,
# such as plugins/tensorrt, where TensorRT is not installed.
sed -i '\#/plugins$#d' .venv/lib/python3.*/site-packages/_editable_skbc_hsm_export.pth
.venv/bin/python - <<'EOF'
from hsm_export.errors import MissingDependencyError
from hsm_export.native import custom_ops_path

try:
    custom_ops_path()
except MissingDependencyError as error:
    print(f"note: the fused kernels were not built, everything else works: {error}")
EOF
