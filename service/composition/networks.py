"""From the settings to what runs the networks: onnxruntime or OpenVINO in this process, or Triton servers.

Each is imported when it is used: a process with Triton needs no onnxruntime, and one without it no tritonclient.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

from service.core.interfaces import InferenceBackend
from service.core.manifest import Manifest
from service.core.metrics import Metrics
from service.core.settings import ENV_PREFIX, Precision, Runtime, Settings, UnusableSettings


async def open_backend(
    settings: Settings, manifest: Manifest, metrics: Metrics, *, only: Collection[str] | None = None
) -> InferenceBackend:
    """What runs the networks, checked against the manifest.

    Args:
        settings: The operator's.
        manifest: The bundle's contract.
        metrics: Told about every call.
        only: Names of the networks that are called, `detector` among them or not; None for all.

    Raises:
        ManifestMismatch: The bundle, or what a server has of it, is not usable; the message names the field.
        DependencyUnavailable: No Triton server was ready within `triton_start_timeout_s`, or there is too little
            shared memory.
        UnusableSettings: Triton's client or OpenVINO is not installed, the files of `triton_*_file` cannot be used,
            this processor has no such precision, or settings contradict each other.
    """
    if settings.triton_urls and settings.inference_runtime is not Runtime.ONNXRUNTIME:
        raise UnusableSettings(
            f"{ENV_PREFIX}INFERENCE_RUNTIME is for networks in this process, and {ENV_PREFIX}TRITON_URLS has them "
            "elsewhere: unset one of them"
        )
    if settings.triton_urls:
        return await _open_triton(settings, manifest, metrics, only)
    calls_networks = only is None or not set(only).isdisjoint(manifest.networks)  # the detector alone is onnxruntime's
    if settings.inference_runtime is Runtime.OPENVINO and calls_networks:
        return _open_openvino(settings, manifest, metrics, only)
    from service.backends.ort_session import OrtBackend

    return OrtBackend(manifest, settings.model_repository, settings.inference_threads, metrics=metrics, only=only)


def _open_openvino(
    settings: Settings, manifest: Manifest, metrics: Metrics, only: Collection[str] | None
) -> InferenceBackend:
    with _extra("openvino", "INFERENCE_RUNTIME=openvino needs OpenVINO"):
        from service.backends import openvino_session
    precisions = openvino_session.precisions()
    asked = precisions[0] if settings.openvino_precision is Precision.AUTO else settings.openvino_precision
    if asked not in precisions:
        raise UnusableSettings(
            f"{ENV_PREFIX}OPENVINO_PRECISION={settings.openvino_precision}: this processor does not compute in it "
            "(AMX or AVX-512's bfloat16 does); take auto"
        )
    return openvino_session.OpenVinoBackend(
        manifest,
        settings.model_repository,
        settings.inference_threads,
        precision=asked,
        metrics=metrics,
        only=only,
    )


async def _open_triton(
    settings: Settings, manifest: Manifest, metrics: Metrics, only: Collection[str] | None
) -> InferenceBackend:
    with _extra("triton", "TRITON_URLS needs Triton's client"):
        from service.backends.triton_client import TritonBackend
        from service.backends.triton_endpoints import TlsFiles
    try:
        backend = TritonBackend(
            manifest,
            settings.triton_addresses,
            metrics=metrics,
            timeout_s=settings.triton_timeout_s,
            tls=TlsFiles(settings.triton_ca_file, settings.triton_certificate_file, settings.triton_key_file),
            shared_memory=settings.triton_shared_memory,
            rows=settings.slots,
            only=only,
        )
    except (OSError, ValueError) as error:
        raise UnusableSettings(f"{ENV_PREFIX}TRITON_*_FILE: {error}") from error
    try:
        await backend.start(settings.triton_start_timeout_s)
    except BaseException:
        await backend.close()
        raise
    return backend


@contextlib.contextmanager
def _extra(name: str, what: str) -> Iterator[None]:
    """Tell the operator which extra to install, where an import of the block fails."""
    try:
        yield
    except ImportError as error:
        raise UnusableSettings.without_extra(f"{ENV_PREFIX}{what}", name, error) from error
