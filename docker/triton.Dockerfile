# syntax=docker/dockerfile:1
# NVIDIA's Triton with the bundle and the detector inside.
#
#   docker build --file docker/triton.Dockerfile --tag latent-pmrf-triton .
#
# The networks run on the CPU. With `--model-config-name=gpu` they run on the GPU; docker/compose.gpu.yaml does that.
# A folder of engines (docker/export.sh) goes over /models and must have been built with this very image.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.02-py3

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all:
WORKDIR /src
COPY constraints.txt ./
RUN python -m pip install --constraint constraints.txt numpy onnx
COPY export export
COPY model_repository /models
RUN python -m export.detector --model-repository /models \
    && chmod -R a+rX /models

FROM ${TRITON_IMAGE} AS triton
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="latent-pmrf-triton" \
      org.opencontainers.image.description="The networks of latent-pmrf in NVIDIA's Triton Inference Server" \
      org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=build /models /models
USER 1000:1000
WORKDIR /tmp
EXPOSE 8000 8001 8002
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=5s --start-period=300s --retries=3 \
    CMD ["curl", "--fail", "--silent", "http://127.0.0.1:8000/v2/health/ready"]
CMD ["tritonserver", "--model-repository=/models", "--exit-on-error=true", "--exit-timeout-secs=60", "--log-info=false"]
