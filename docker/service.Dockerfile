# syntax=docker/dockerfile:1
# The service in two images: the gateway, HTTP and gRPC and all that surrounds the networks; the worker, from the queue of
# faces to the networks and back.
#
#   docker build --file docker/service.Dockerfile --target gateway --tag latent-pmrf-gateway .
#   docker build --file docker/service.Dockerfile --target worker --tag latent-pmrf-worker .
#
# They run on a read-only root with /tmp writable, as user 10001. docker/pin.sh tells the digest of the day.
ARG PYTHON_IMAGE=docker.io/library/python:3.11-slim-bookworm@sha256:a36c24f9cbdf4fd0f52d67f0823eeac19c2028c637cecc392d97f980d4fec56b

FROM ${PYTHON_IMAGE} AS build
ENV PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 PIP_ONLY_BINARY=:all:
WORKDIR /src
COPY pyproject.toml constraints.txt hatch_build.py README.md LICENSE ./
COPY service service
COPY export export
COPY latent_pmrf latent_pmrf
COPY loadtest loadtest
RUN python -m venv /opt/latent-pmrf \
    && /opt/latent-pmrf/bin/python -m pip install --constraint constraints.txt '.[triton,tracing]'
COPY model_repository /opt/model_repository
WORKDIR /opt
RUN latent-pmrf/bin/python -m export.detector --model-repository model_repository \
    && chmod -R a+rX model_repository \
    && latent-pmrf/bin/python -m pip inspect > latent-pmrf/packages.json \
    && latent-pmrf/bin/python -m pip uninstall --yes pip setuptools

FROM ${PYTHON_IMAGE} AS installed
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG CREATED=unknown
LABEL org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}" \
      latent-pmrf.packages="/opt/latent-pmrf/packages.json"
COPY --from=build /opt/latent-pmrf /opt/latent-pmrf
COPY --from=build /opt/model_repository /opt/model_repository
ENV PYTHONUNBUFFERED=1 \
    PYTHONDONTWRITEBYTECODE=1 \
    LATENT_PMRF_LOG_FORMAT=json \
    HOST=0.0.0.0 \
    LATENT_PMRF_MODEL_REPOSITORY=/opt/model_repository
USER 10001:10001
WORKDIR /tmp
STOPSIGNAL SIGTERM
ENTRYPOINT ["/opt/latent-pmrf/bin/latent-pmrf"]

FROM installed AS worker
LABEL org.opencontainers.image.title="latent-pmrf-worker" \
      org.opencontainers.image.description="Restores the faces of photographs: a worker on the queue"
ENV METRICS_PORT=8001
EXPOSE 8001
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["/opt/latent-pmrf/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8001/livez', timeout=4)"]
CMD ["worker"]

FROM installed AS gateway
LABEL org.opencontainers.image.title="latent-pmrf-gateway" \
      org.opencontainers.image.description="Restores the faces of photographs: HTTP and gRPC"
ENV PORT=8000
EXPOSE 8000 50051
HEALTHCHECK --interval=10s --timeout=5s --start-period=120s --retries=3 \
    CMD ["/opt/latent-pmrf/bin/python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8000/livez', timeout=4)"]
CMD ["gateway"]
