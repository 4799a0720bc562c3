#!/usr/bin/env bash
# Writes the images of docker/compose*.yaml with their digests of today to docker/.env, where compose reads them.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

partial=$(mktemp .env.XXXXXX)
trap 'rm -f "$partial"' EXIT
while read -r name image; do
    digest=$(docker buildx imagetools inspect --format '{{.Manifest.Digest}}' "$image")
    [[ $digest == sha256:* ]] || { echo "error: no digest for $image: $digest" >&2; exit 1; }
    echo "$name=$image@$digest" | tee -a "$partial"
done <<'IMAGES'
PYTHON_IMAGE docker.io/library/python:3.11-slim-bookworm
TRITON_IMAGE nvcr.io/nvidia/tritonserver:26.02-py3
REDIS_IMAGE docker.io/library/redis:7.4-alpine
PROMETHEUS_IMAGE docker.io/prom/prometheus:v3.5.0
GRAFANA_IMAGE docker.io/grafana/grafana:12.1.1
TEMPO_IMAGE docker.io/grafana/tempo:2.10.4
IMAGES
chmod 644 "$partial"
mv "$partial" .env
