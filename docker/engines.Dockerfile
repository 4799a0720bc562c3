# syntax=docker/dockerfile:1
# What builds TensorRT engines: the export, in an environment of its own inside the Triton image that will load them, with
# the Python package of the very TensorRT that is in there; an engine fits one TensorRT and one kind of GPU.
#
#   docker build --file docker/engines.Dockerfile --tag latent-pmrf-engines .
#
# docker/export.sh runs it on this machine's GPU, k8s/engines on that of a node. It needs no network when it runs.
ARG TRITON_IMAGE=nvcr.io/nvidia/tritonserver:26.02-py3

FROM ${TRITON_IMAGE} AS engines
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.title="latent-pmrf-engines" \
      org.opencontainers.image.description="Builds the TensorRT engines of latent-pmrf on the GPU that it runs on" \
      org.opencontainers.image.licenses="Apache-2.0 AND BSD-3-Clause AND MIT" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1
WORKDIR /src
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY service service
COPY export export
COPY latent_pmrf latent_pmrf
COPY loadtest loadtest
# Debian's Python has no ensurepip; the pip beside it installs another into the environment.
RUN python3 -m venv --without-pip /opt/latent-pmrf \
    && python3 -m pip --python /opt/latent-pmrf/bin/python install pip \
    && /opt/latent-pmrf/bin/python -m pip install --constraint constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu '.[train,engines]' \
    && version=${TRT_VERSION:-$(dpkg-query --show --showformat='${Version}' libnvinfer10)} \
    && /opt/latent-pmrf/bin/python -m pip install --extra-index-url https://pypi.nvidia.com \
        "tensorrt-cu${CUDA_VERSION%%.*}==${version%%[+-]*}"
COPY model_repository /models
RUN /opt/latent-pmrf/bin/python -m export.detector --model-repository /models \
    && chmod -R a+rX /models
ENV PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1
USER 1000:1000
WORKDIR /tmp
ENTRYPOINT ["/opt/latent-pmrf/bin/python", "-m", "export.cli", "tensorrt"]
CMD ["--help"]
