#!/usr/bin/env bash
# Builds the TensorRT engines of a bundle on this machine's GPU, in a container of docker/engines.Dockerfile.
#
#   docker/export.sh TARGET [--precision bfloat16] [arguments of `python -m export.cli tensorrt`]
#
# TARGET is a folder for the new model repository. From the environment: TRITON_IMAGE, MODEL_REPOSITORY (the float32
# bundle; default: the checkout's) and TIMING_CACHE (a folder; default: build/tensorrt). docs/GPU.md shows what it prints.
set -euo pipefail

TRITON_IMAGE=${TRITON_IMAGE:-nvcr.io/nvidia/tritonserver:26.02-py3}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

[[ $# -ge 1 && $1 != -* ]] || { sed -n '4p' "${BASH_SOURCE[0]}" >&2; exit 2; }
target=$1 bundle=${MODEL_REPOSITORY:-$ROOT/model_repository} cache=${TIMING_CACHE:-$ROOT/build/tensorrt}
shift
bundle=$(cd "$bundle" && pwd)
mkdir -p "$target" "$cache"

docker build --file "$ROOT/docker/engines.Dockerfile" --build-arg "TRITON_IMAGE=$TRITON_IMAGE" \
    --tag latent-pmrf-engines "$ROOT"
run=(docker run --rm --user "$(id -u):$(id -g)" --volume "$(cd "$target" && pwd):/target")
"${run[@]}" --gpus all --shm-size 1g \
    --volume "$bundle:/bundle:ro" \
    --volume "$(cd "$cache" && pwd):/cache" \
    latent-pmrf-engines --model-repository /bundle --target /target --timing-cache /cache/timing.bin "$@"
if [[ -f $target/manifest.json ]]; then # no Triton starts without the detector, and the bundle need not have it
    "${run[@]}" --entrypoint install latent-pmrf-engines -D --mode 644 /models/detector/1/model.onnx /target/detector/1/model.onnx
fi
