# syntax=docker/dockerfile:1
# A small image that runs bundles on the CPU: libhsm_runtime, the fused operators, ONNX Runtime and hsm-run. No Python.
# Linted, and its commands tried outside a container where that is possible; the image has not been built yet.
#
#   docker build -f docker/cpu.Dockerfile -t hsm-runtime .
#   docker run --rm --volume "$PWD/model.hsm:/model.hsm:ro" hsm-runtime /model.hsm --self-test

FROM debian:trixie-slim AS build
# Python runs tools/fetch.py, which takes Highway's sources as pinned in downloads.lock; it stays in this stage.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends \
        ca-certificates cmake dpkg-dev g++ libonnxruntime-dev ninja-build nlohmann-json3-dev python3 \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /source
COPY downloads.lock ./
COPY tools/fetch.py tools/
COPY plugins plugins
RUN cmake -S plugins -B /build -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX=/opt/hsm \
        -DHSM_ONNXRUNTIME=ON -DHSM_RUNTIME=ON -DHSM_CUDA=OFF -DHSM_TENSORRT=OFF -DHSM_TORCH=OFF \
    && cmake --build /build --parallel \
    && cmake --install /build --strip

FROM debian:trixie-slim
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install --yes --no-install-recommends libonnxruntime1.21 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin hsm
COPY --from=build /opt/hsm /opt/hsm
ENV HSM_ONNXRUNTIME_LIBRARY=libonnxruntime.so.1.21 \
    LD_LIBRARY_PATH=/opt/hsm/lib \
    PATH=/opt/hsm/bin:$PATH
USER 10001
ENTRYPOINT ["hsm-run"]
