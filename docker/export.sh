#!/usr/bin/env bash
# Builds the TensorRT engines of a bundle on this machine's GPU, inside NVIDIA's Triton container: engines fit only the
# TensorRT they were built with and the kind of GPU they were built on.
#
#   docker/export.sh TARGET [--precision bfloat16] [arguments of `python -m export.cli tensorrt`]
#
# TARGET is a folder for the new model repository. From the environment: TRITON_IMAGE, MODEL_REPOSITORY (the float32
# bundle; default: the checkout's) and TIMING_CACHE (a folder; default: build/tensorrt). docs/GPU.md shows what it prints.
set -euo pipefail

TRITON_IMAGE=${TRITON_IMAGE:-nvcr.io/nvidia/tritonserver:26.02-py3}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

inside() { # in the container: the checkout is /work and read-only, the container is thrown away
    local version=${TRT_VERSION:-$(dpkg-query --show --showformat='${Version}' libnvinfer10)}
    local tensorrt="tensorrt-cu${CUDA_VERSION%%.*}==${version%%[+-]*}"
    trap 'chown -R "$OWNER" /target /cache' EXIT
    cp -r /work/{pyproject.toml,constraints.txt,hatch_build.py,README.md,LICENSE,service,export,latent_pmrf,loadtest} /build/
    cd /build
    python3 -m pip install --quiet --break-system-packages --root-user-action ignore --constraint constraints.txt \
        --extra-index-url https://download.pytorch.org/whl/cpu '.[train,engines]'
    python3 -m pip install --quiet --break-system-packages --root-user-action ignore \
        --extra-index-url https://pypi.nvidia.com "$tensorrt"
    cd /target
    python3 -m export.cli tensorrt --model-repository /bundle --target /target --timing-cache /cache/timing.bin "$@"
    if [[ -f /target/manifest.json ]]; then # no Triton starts without the detector, and the checkout need not have it
        python3 -m export.detector --model-repository /target
    fi
}

outside() {
    [[ $# -ge 1 && $1 != -* ]] || { sed -n '5p' "${BASH_SOURCE[0]}" >&2; exit 2; }
    local target=$1 bundle=${MODEL_REPOSITORY:-$ROOT/model_repository} cache=${TIMING_CACHE:-$ROOT/build/tensorrt}
    shift
    mkdir -p "$target" "$cache"
    exec docker run --rm --gpus all --shm-size 1g \
        --volume "$ROOT:/work:ro" \
        --volume "$(cd "$bundle" && pwd):/bundle:ro" \
        --volume "$(cd "$target" && pwd):/target" \
        --volume "$(cd "$cache" && pwd):/cache" \
        --tmpfs /build:exec \
        --env "OWNER=$(id -u):$(id -g)" \
        --entrypoint bash \
        "$TRITON_IMAGE" /work/docker/export.sh --inside "$@"
}

if [[ ${1:-} == --inside ]]; then
    shift
    inside "$@"
else
    outside "$@"
fi
