"""The checks. Each looks at one thing and ends in a Finding, whatever it meets."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from service.brokers.redis_connection import RedisConnection
from service.composition.access import open_access
from service.composition.ending import Ending
from service.composition.gateway import restoring
from service.composition.networks import open_backend
from service.composition.queues import open_faces
from service.composition.release import version
from service.composition.tls import load_tls
from service.core.cores import has_bfloat16_tiles, usable_cores
from service.core.errors import DependencyUnavailable, ManifestMismatch, ServiceError
from service.core.jobs import CLOCKS_DIFFER_S
from service.core.manifest import Manifest, load_manifest
from service.core.metrics import Metrics
from service.core.settings import ENV_PREFIX, Runtime, Settings, UnusableSettings
from service.core.types import FaceStatus, Restoration, RestoreOptions, Upload
from service.decoders.calls import can_filter_calls
from service.doctor.drawn_face import face_png
from service.doctor.findings import Finding, Verdict

_LEAST_MEMORY_MB = 1200
_PATIENCE_S = 10.0  # with a server that does not answer
_OLDEST_REDIS = (6, 2)
_START_REDIS = f"start Redis, or correct {ENV_PREFIX}REDIS_URL"
_RIGHTS = "the rights that docs/SECURITY.md names"
_SEED = 7
_MEMORY = Path("/proc/meminfo")
_GROUP = Path("/sys/fs/cgroup")


def machine() -> Finding:
    """Release, interpreter, cores, memory, and whether the kernel confines what decodes photos."""
    cores, memory_mb = usable_cores(), _memory_mb()
    left = "unknown" if memory_mb is None else f"{memory_mb} MB"
    detail = (
        f"latent-pmrf {version()}, Python {platform.python_version()}, onnxruntime {_onnxruntime()}, cores: {cores}, "
        f"memory left: {left}"
    )
    if memory_mb is not None and memory_mb < _LEAST_MEMORY_MB:
        remedy = f"leave it {_LEAST_MEMORY_MB} MB: photos of 40 megapixels need them"
        return Finding("machine", Verdict.WARNING, detail, remedy)
    if not can_filter_calls():
        remedy = "allow seccomp, or decode only photos of people you trust (docs/SECURITY.md)"
        return Finding("machine", Verdict.WARNING, f"{detail}; what decodes photos may make any call", remedy)
    return Finding("machine", Verdict.OK, detail)


def settings_in_use(settings: Settings) -> Finding:
    """Which settings are not the defaults, and whether the files they name can be used. Values are not shown."""
    given = sorted(name for name in os.environ if name.upper().startswith(ENV_PREFIX))
    try:
        load_tls(settings)
        open_access(settings)
    except UnusableSettings as error:
        return Finding("settings", Verdict.FAILED, str(error), "mend the file, or unset the variable")
    return Finding("settings", Verdict.OK, f"in the environment: {', '.join(given) or 'none, all as by default'}")


def bundle(settings: Settings) -> tuple[Finding, Manifest | None]:
    """The manifest, and the hash of every file that it names."""
    try:
        manifest = load_manifest(settings.model_repository)
    except ManifestMismatch as error:
        return Finding("bundle", Verdict.FAILED, error.detail, error.hint), None
    except Exception as error:  # noqa: BLE001 - such as a file that may not be read
        return unexpected("bundle", error), None
    names = ", ".join(sorted(manifest.networks))
    detail = f"{manifest.name} {manifest.version} in {settings.model_repository}; as in the manifest: {names}"
    return Finding("bundle", Verdict.OK, detail), manifest


async def networks(settings: Settings, manifest: Manifest) -> Finding:
    """Whether every network and the detector can be loaded, here or by Triton's servers."""
    hurried = settings.model_copy(update={"triton_start_timeout_s": min(settings.triton_start_timeout_s, _PATIENCE_S)})
    if settings.triton_urls:
        where, remedy = f"Triton at {settings.triton_urls}", f"start the server, or correct {ENV_PREFIX}TRITON_URLS"
    elif settings.inference_runtime is Runtime.OPENVINO:
        where, remedy = f"OpenVINO, {settings.openvino_precision}", ""
    else:
        from service.backends.ort_session import providers

        where, remedy = f"onnxruntime, {', '.join(providers())}", ""
    try:
        backend = await open_backend(hurried, manifest, Metrics())
    except (ManifestMismatch, DependencyUnavailable) as error:
        return Finding("networks", Verdict.FAILED, f"{where}: {error.detail}", error.hint or remedy)
    except UnusableSettings as error:
        return Finding("networks", Verdict.FAILED, str(error))
    await backend.close()
    if settings.inference_runtime is Runtime.OPENVINO and not settings.triton_urls:
        from service.backends.openvino_session import OpenVinoBackend

        where = f"OpenVINO, {backend.precision}" if isinstance(backend, OpenVinoBackend) else where
    advice = ""
    if not settings.triton_urls and settings.inference_runtime is Runtime.ONNXRUNTIME and has_bfloat16_tiles():
        advice = f"; AMX is here: {ENV_PREFIX}INFERENCE_RUNTIME=openvino would be faster (an experiment)"
    return Finding("networks", Verdict.OK, f"{where}; the detector is there{advice}")


async def queue(settings: Settings, manifest: Manifest | None) -> Finding:
    """Whether Redis answers, is new enough and keeps what it is given; whether workers are there."""
    if settings.redis_url is None:
        return Finding("queue", Verdict.SKIPPED, f"{ENV_PREFIX}REDIS_URL is not set: the queue is in the process")
    try:
        connection = RedisConnection(settings.redis_url.get_secret_value(), timeout_s=_PATIENCE_S)
    except ValueError as error:
        return Finding("queue", Verdict.FAILED, f"{ENV_PREFIX}REDIS_URL: {error}")
    try:
        facts = await connection.facts()
        can_write = await connection.can_write(f"{settings.redis_prefix}:doctor", _PATIENCE_S)
    except DependencyUnavailable as error:
        detail = f"{error.detail}: {error.__cause__ or 'no answer in time'}"
        return Finding("queue", Verdict.FAILED, detail, f"{_START_REDIS}; its user needs {_RIGHTS}")
    finally:
        await connection.close()
    detail = f"Redis {facts['redis_version']}"
    if (unfit := _unfit(detail, facts, can_write=can_write)) is not None:
        return unfit
    doubts = _doubts(facts)
    if manifest is not None and not await _has_workers(settings, manifest):
        doubts["no worker has been alive lately"] = f"start one, latent-pmrf worker, with the bundle {manifest.tag}"
    if doubts:
        return Finding("queue", Verdict.WARNING, "; ".join([detail, *doubts]), "; ".join(doubts.values()))
    return Finding("queue", Verdict.OK, f"{detail}, noeviction, appendonly")


def _unfit(detail: str, facts: Mapping[str, Any], *, can_write: bool) -> Finding | None:
    """Why a Redis cannot be used by what it tells of itself, if it cannot."""
    if tuple(int(part) for part in str(facts["redis_version"]).split(".")[:2]) < _OLDEST_REDIS:
        return Finding("queue", Verdict.FAILED, detail, f"take {'.'.join(map(str, _OLDEST_REDIS))} or later")
    if not can_write:
        remedy = f"take the address of the primary; give it room on its disk; its user needs {_RIGHTS}"
        return Finding("queue", Verdict.FAILED, f"{detail}, a {facts.get('role')}, refuses to be written to", remedy)
    if facts.get("maxmemory_policy") != "noeviction":
        remedy = "set maxmemory-policy noeviction: others throw away photos that wait"
        return Finding("queue", Verdict.FAILED, f"{detail}, maxmemory-policy {facts.get('maxmemory_policy')}", remedy)
    return None


def _doubts(facts: Mapping[str, Any]) -> dict[str, str]:
    """What speaks against a Redis that can be used, and what to do about each."""
    doubts = {}
    if not facts.get("maxmemory"):
        doubts["it has no limit of its memory"] = (
            "set maxmemory (docs/OPERATIONS.md): results may take all that the machine has, and it ends some process"
        )
    if not facts.get("aof_enabled"):
        remedy = "set appendonly yes (docs/OPERATIONS.md): what waits is lost when the server ends"
        doubts["it keeps nothing on its disk"] = remedy
    ahead_s = time.time() - int(facts.get("server_time_usec", time.time() * 1e6)) / 1e6
    if abs(ahead_s) > CLOCKS_DIFFER_S:
        told = f"the clock here is {abs(ahead_s):.0f} s {'ahead of' if ahead_s > 0 else 'behind'} its own"
        doubts[told] = "keep the clocks of all machines together (NTP)"
    return doubts


async def restoration(settings: Settings) -> Finding:
    """Restore a drawn face in this process, twice: it must be found, changed, and come out the same both times."""
    alone, photo = settings.alone(), face_png()
    began_s = time.perf_counter()
    try:
        with Ending(settings.grace_s) as ending:
            async with restoring(alone, ending, with_worker=True) as parts:
                ready_s = time.perf_counter()
                first = await parts.gateway.restore(Upload(photo), RestoreOptions(seed=_SEED))
                first_s = time.perf_counter()
                second = await parts.gateway.restore(Upload(photo), RestoreOptions(seed=_SEED))
                second_s = time.perf_counter()
    except (ServiceError, UnusableSettings) as error:
        hint = error.hint if isinstance(error, ServiceError) else ""
        return Finding("restoration", Verdict.FAILED, str(error), hint)
    fault = _fault(photo, first, second)
    if fault:
        remedy = "install again (make install); if that does not help, report it with this table"
        return Finding("restoration", Verdict.FAILED, fault, remedy)
    times = f"started in {ready_s - began_s:.1f} s, {first_s - ready_s:.2f} s, then {second_s - first_s:.2f} s a photo"
    return Finding("restoration", Verdict.OK, f"a drawn face was found and restored, twice the same; {times}")


def skipped(check: str, needs: str) -> Finding:
    """A check that was not made because another has failed."""
    return Finding(check, Verdict.SKIPPED, f"needs the {needs}")


def unexpected(check: str, error: Exception) -> Finding:
    """A check met what it was not made for."""
    return Finding(check, Verdict.FAILED, f"{type(error).__name__}: {error}")


def _fault(photo: bytes, first: Restoration, second: Restoration) -> str:
    """What is wrong with two restorations of one photo with one seed; empty where nothing is."""
    restored = sum(face.status is FaceStatus.RESTORED for face in first.report.faces)
    if restored != 1:
        return f"of one drawn face, {restored} were restored"
    if first.data == photo:
        return "the photo came back as it was"
    return "" if first.data == second.data else "the same photo and seed gave two results"


async def _has_workers(settings: Settings, manifest: Manifest) -> bool:
    faces = open_faces(settings, manifest, Metrics())
    try:
        return await faces.has_workers()
    finally:
        await faces.close()


def _onnxruntime() -> str:
    """The version that is imported, whichever distribution it comes from."""
    try:
        import onnxruntime
    except ImportError:
        return "not installed"
    return str(onnxruntime.__version__)


def _memory_mb() -> int | None:
    """What this process may still take, by the system and by its control group; None where the system does not tell."""
    try:
        told = dict(line.split(":", 1) for line in _MEMORY.read_text().splitlines())
        left_kb = int(told["MemAvailable"].split()[0])
    except (OSError, LookupError, ValueError):
        return None
    try:
        most, used = ((_GROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        left_kb = min(left_kb, (int(most) - int(used)) // 1024)
    except (OSError, ValueError):  # no control group of version 2, or one without a limit ("max")
        pass
    return left_kb // 1024
