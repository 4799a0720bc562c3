"""Settings, read from `LATENT_PMRF_*` environment variables once, in `service.cli`, and passed down."""

from __future__ import annotations

import base64
import binascii
import difflib
import ipaddress
import os
import re
from collections.abc import Collection, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

ENV_PREFIX = "LATENT_PMRF_"
_TRITON_URL = re.compile(r"grpcs?://(\[[0-9a-fA-F:.]+\]|[^\s/:@\[\]]+):\d{1,5}")
_ORIGIN = re.compile(r"https?://(\[[0-9a-f:.]+\]|[a-z0-9.-]+)(:\d{1,5})?")  # as browsers send it: lower case, no path
_SECRET_BYTES = range(24, 65)  # what the Standard Webhooks scheme allows
_BUNDLE = Path("model_repository")


class UnusableSettings(ValueError):
    """What the operator has set is wrong, or does not suffice; the message names it."""

    @classmethod
    def without_extra(cls, what: str, extra: str, error: ImportError) -> UnusableSettings:
        """What was set needs an extra that is not installed: how to install it."""
        return cls(f"{what}: in its folder, .venv/bin/python -m pip install --editable '.[{extra}]' ({error})")


class LogFormat(StrEnum):
    """Forms of the log."""

    TEXT = "text"  #: for people
    JSON = "json"  #: one object a line, for machines


class Runtime(StrEnum):
    """What runs the networks in this process."""

    ONNXRUNTIME = "onnxruntime"
    OPENVINO = "openvino"  #: installed by the extra of that name


class Precision(StrEnum):
    """What OpenVINO computes products in."""

    AUTO = "auto"  #: bfloat16 where the processor does so by itself, else float32
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


class Settings(BaseSettings):
    """Everything an operator may set; units are in the names."""

    model_config = SettingsConfigDict(env_prefix=ENV_PREFIX, extra="forbid", frozen=True)

    log_format: LogFormat = Field(LogFormat.TEXT, description="Form of the log: text, or json with one object a line.")
    model_repository: Path = Field(
        _BUNDLE,
        description="Folder with manifest.json and the networks. Where the default is absent: the one in the checkout.",
    )
    max_upload_bytes: int = Field(32 * 1024 * 1024, gt=0, description="Largest request body accepted.")
    max_image_px: int = Field(40_000_000, gt=0, description="Most pixels of a photo, checked before decoding.")
    min_image_side_px: int = Field(64, gt=0, description="Least side of a photo.")
    max_output_px: int = Field(160_000_000, gt=0, description="Most pixels of a result after `upscale`.")
    max_faces: int = Field(64, gt=0, description="Most faces in one photo; more is refused.")
    max_queued_faces: int = Field(256, gt=0, description="Faces waiting before uploads are answered with 429.")
    max_queued_photos: int = Field(64, gt=0, description="Photos of jobs waiting in one lane before 429.")
    job_queue_bytes: int = Field(256 * 1024 * 1024, gt=0, description="Memory for photos of jobs that wait.")
    job_photos: int = Field(4, gt=0, description="Photos of jobs restored at once.")
    job_timeout_s: float = Field(
        3600.0, gt=0, allow_inf_nan=False, description="Longest time a job may wait before it is begun."
    )
    max_concurrent_photos: int = Field(16, gt=0, description="Photos under way at once; more wait their turn.")
    photo_bytes: int = Field(
        3 * 1024**3,
        gt=0,
        description="Memory for their pixels, and as much for results that are being encoded: what does not fit in "
        "waits, what is larger is worked on alone.",
    )
    latency_objective_s: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="Direct requests that would probably take longer are answered with 429; for a sixth of it a photo "
        "of many faces takes turns with others.",
    )
    slots: int = Field(4, gt=0, description="Faces in flight in the sampler.")
    inference_threads: int = Field(
        0, ge=0, le=1024, description="Threads of one network call; 0 uses all cores it may."
    )
    inference_runtime: Runtime = Field(
        Runtime.ONNXRUNTIME, description="What runs the networks in this process: onnxruntime, or openvino (an extra)."
    )
    openvino_precision: Precision = Field(
        Precision.AUTO,
        description="What OpenVINO computes in: float32, bfloat16, or auto: bfloat16 where the processor has it.",
    )
    call_timeout_s: float = Field(
        600.0, gt=0, allow_inf_nan=False, description="A process whose network call takes longer is stuck, and ends."
    )
    cpu_workers: int = Field(2, gt=0, description="Threads for decode, align, paste and encode.")
    decoder_children: int = Field(
        2, ge=0, description="Processes that decode, one photo each. 0: decode in threads of this process."
    )
    decode_cpu_s: float = Field(
        20.0, gt=0, allow_inf_nan=False, description="Computing that decoding one photo may take, where processes do."
    )
    request_timeout_s: float = Field(
        120.0, gt=0, allow_inf_nan=False, description="Longest time a photo may take from upload to result."
    )
    grpc_port: int = Field(
        50051, ge=-1, le=65535, description="Port of gRPC on HTTP's host. 0: no gRPC; -1: any that is free."
    )
    grpc_max_message_bytes: int = Field(
        4 * 1024 * 1024, ge=64 * 1024, le=2**31 - 1, description="Largest gRPC message; clients take 4 MiB by default."
    )
    stream_bytes: int = Field(
        256 * 1024 * 1024, gt=0, description="Memory for photos and results of gRPC streams, all together."
    )
    grace_s: float = Field(
        120.0, ge=0, allow_inf_nan=False, description="After a signal to end, longest time for what was admitted."
    )
    result_ttl_s: float = Field(
        3600.0, gt=0, allow_inf_nan=False, description="How long a report and its image can be fetched."
    )
    result_cache_bytes: int = Field(
        256 * 1024 * 1024, ge=0, description="Memory for fetchable results, and as much for those that are being sent."
    )
    api_keys_file: Path | None = Field(
        None, description="Keys that callers must show; `latent-pmrf keys` writes it. None: everybody may come in."
    )
    api_key: SecretStr | None = Field(None, description="Key that `latent-pmrf batch` and the client show.")
    cors_origins: str = Field(
        "",
        description="Origins (`https://app.example`, by commas; * for all) whose pages may call the HTTP interface.",
    )
    tls_certificate_file: Path | None = Field(
        None, description="PEM of the server's certificate and its chain: HTTPS, and gRPC with TLS. None: in the clear."
    )
    tls_key_file: Path | None = Field(None, description="PEM of the key of `tls_certificate_file`.")
    tls_client_ca_file: Path | None = Field(
        None, description="PEM of who vouches for clients: only those with a certificate of theirs are served."
    )
    redis_url: SecretStr | None = Field(
        None, description="Server of the shared queue: redis://, rediss:// or unix://. None: a queue in this process."
    )
    redis_prefix: str = Field(
        "{latent-pmrf}",
        pattern=r"^[^{}]*\{[^{}]+\}[^{}]*$",
        description="Begins every key; the part in braces keeps them in one slot of a cluster.",
    )
    lease_s: float = Field(
        30.0, gt=0, allow_inf_nan=False, description="Silence after which a process's work is given to another."
    )
    max_deliveries: int = Field(3, gt=0, description="Processes that may be lost over one face or photo.")
    payload_ttl_s: float = Field(
        86400.0, gt=0, allow_inf_nan=False, description="Longest time that pixels stay in the shared queue's server."
    )
    webhook_secret: SecretStr | None = Field(
        None,
        description="Signs notices: `whsec_...`, several separated by spaces while one is replaced. None: no notices.",
    )
    webhook_networks: str = Field(
        "",
        description="Networks (CIDR, by commas) that notices may reach though they are not public, also by plain HTTP.",
    )

    triton_urls: str = Field(
        "",
        description="Triton servers that run the networks, by commas: grpc://HOST:PORT, or grpcs:// with TLS. "
        "Empty: in this process.",
    )
    triton_timeout_s: float = Field(
        30.0,
        gt=0,
        allow_inf_nan=False,
        description="Longest time of one network call through Triton, retries included.",
    )
    triton_start_timeout_s: float = Field(
        120.0, gt=0, allow_inf_nan=False, description="How long a process waits at its start for Triton to be ready."
    )
    triton_shared_memory: bool = Field(
        False, description="Pass pixels to Triton through /dev/shm: only where all of `triton_urls` are on this host."
    )
    triton_ca_file: Path | None = Field(None, description="PEM of who vouches for Triton's servers, for grpcs://.")
    triton_certificate_file: Path | None = Field(None, description="PEM of our certificate, where Triton asks for one.")
    triton_key_file: Path | None = Field(None, description="PEM of the key of `triton_certificate_file`.")

    def alone(self) -> Settings:
        """The same for a process that shares nothing and serves nobody: no queue of others, no keys, no notices."""
        return self.model_copy(update={"redis_url": None, "api_keys_file": None, "webhook_secret": None})

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """The origins of `cors_origins`, one by one."""
        return by_commas(self.cors_origins)

    @property
    def triton_addresses(self) -> tuple[str, ...]:
        """The servers of `triton_urls`, one by one."""
        return by_commas(self.triton_urls)

    @model_validator(mode="before")
    @classmethod
    def _bundle_of_the_checkout(cls, given: dict[str, Any]) -> dict[str, Any]:
        """Where the process runs in a folder without a bundle, and from a checkout, the bundle beside this package."""
        beside = Path(__file__).resolve().parents[2] / _BUNDLE
        if "model_repository" in given or _BUNDLE.is_dir() or not beside.is_dir():
            return given
        return {**given, "model_repository": beside}

    @field_validator("redis_url")
    @classmethod
    def _well_formed_address(cls, address: SecretStr | None) -> SecretStr | None:
        text = "" if address is None else address.get_secret_value().strip()
        if text and not text.startswith(("redis://", "rediss://", "unix://")):
            raise ValueError("Input should be an address that begins with redis://, rediss:// or unix://")
        return SecretStr(text) if text else None

    @field_validator("cors_origins")
    @classmethod
    def _well_formed_origins(cls, origins: str) -> str:
        for origin in by_commas(origins):
            if origin != "*" and not _ORIGIN.fullmatch(origin):
                raise ValueError(f"Input should be origins such as https://app.example, by commas, not {origin}")
        return origins

    @field_validator("triton_urls")
    @classmethod
    def _well_formed_servers(cls, urls: str) -> str:
        for url in by_commas(urls):
            if not _TRITON_URL.fullmatch(url):
                raise ValueError(f"Input should be servers such as grpc://triton:8001, by commas, not {url}")
        return urls

    @field_validator("webhook_secret")
    @classmethod
    def _well_formed_secret(cls, secret: SecretStr | None) -> SecretStr | None:
        keys = [] if secret is None else secret.get_secret_value().split()
        for key in keys:
            prefix, _, text = key.partition("_")
            try:
                size_bytes = len(base64.b64decode(text, validate=True))
            except binascii.Error:
                size_bytes = 0
            if prefix != "whsec" or size_bytes not in _SECRET_BYTES:
                raise ValueError("Input should be whsec_ and the base64 of 24 to 64 bytes")
        return secret if keys else None

    @field_validator("webhook_networks")
    @classmethod
    def _well_formed_networks(cls, networks: str) -> str:
        for network in by_commas(networks):
            try:
                ipaddress.ip_network(network)
            except ValueError as error:
                raise ValueError(f"Input should be networks such as 10.0.0.0/8, by commas: {error}") from error
        return networks


def by_commas(text: str) -> tuple[str, ...]:
    """The parts of a setting that has several, without the spaces around them; empty ones are none."""
    return tuple(filter(None, map(str.strip, text.split(","))))


def load_settings() -> Settings:
    """Read the environment.

    Raises:
        UnusableSettings: A variable with our prefix is not a setting, or a value is invalid.
    """
    known = {f"{ENV_PREFIX}{name}".upper() for name in Settings.model_fields}
    unknown = sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX) and name.upper() not in known)
    if unknown:
        raise UnusableSettings(f"unknown settings in the environment: {', '.join(_mistyped(unknown, known))}")
    try:
        return Settings()
    except ValidationError as error:
        wrong = [f"{ENV_PREFIX}{str(item['loc'][0]).upper()}: {item['msg']}" for item in error.errors()]
        raise UnusableSettings(f"wrong settings in the environment: {'; '.join(wrong)}") from error


def _mistyped(unknown: Sequence[str], known: Collection[str]) -> list[str]:
    """The unknown names, each with the known one that may be meant."""
    told = []
    for name in unknown:
        own = name.upper().removeprefix(ENV_PREFIX)
        close = difflib.get_close_matches(own, [other.removeprefix(ENV_PREFIX) for other in known], n=1, cutoff=0.7)
        told.append(f"{name} (did you mean {ENV_PREFIX}{close[0]}?)" if close else name)
    return told
