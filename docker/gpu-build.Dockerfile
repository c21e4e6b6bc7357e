# syntax=docker/dockerfile:1
# An image that exports, builds engines for the GPU it runs on, and bundles them: hsm-export with CUDA kernels and
# TensorRT plugins. Linted; neither built nor run yet.
#
# TENSORRT_IMAGE is NVIDIA's container "TensorRT" (NGC catalogue: nvidia/tensorrt, a tag of 2025 or later ending in
# -py3), by its full name. It brings TensorRT with its headers, CUDA with nvcc, and Python.
#
#   docker build -f docker/gpu-build.Dockerfile --build-arg TENSORRT_IMAGE=... -t hsm-export .
#   docker run --rm --gpus all --volume "$PWD:/work" hsm-export build model.onnx --target tensorrt -o model.engine

ARG TENSORRT_IMAGE
FROM ${TENSORRT_IMAGE}
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends dpkg-dev g++ python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY . .
# The container's own TensorRT serves, so that engines fit what the container deploys: no extra "tensorrt" here.
ENV VIRTUAL_ENV=/opt/hsm \
    PATH=/opt/hsm/bin:$PATH
RUN python3 -m venv --system-site-packages /opt/hsm \
    && pip install --no-cache-dir --constraint constraints.txt torch \
    && pip install --no-cache-dir --constraint constraints.txt ".[gpu]" \
    && python -c "from hsm_export import custom_ops_path, tensorrt_plugin_path; custom_ops_path(), tensorrt_plugin_path()"
RUN useradd --uid 10001 --create-home hsm
USER 10001
WORKDIR /work
ENTRYPOINT ["hsm-export"]
