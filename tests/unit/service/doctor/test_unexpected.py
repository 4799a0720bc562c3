"""A check ends in a finding whatever it meets: what nobody thought of is told in the table, and the rest is, too."""

import json
import sys
from importlib import metadata
from pathlib import Path

import pytest
from rich.console import Console

from service.core.settings import Settings
from service.decoders import calls
from service.doctor import checks, command
from service.doctor.findings import Finding, Verdict
from tests.bundle import tiny_manifest

CHECKS = ["machine", "settings", "bundle", "networks", "queue", "restoration"]


@pytest.fixture
def sound(monkeypatch):
    """Checks that find everything well."""

    def plain(check):
        return lambda *_arguments: Finding(check, Verdict.OK, "well")

    def waited_for(check):
        async def look(*_arguments):
            return plain(check)()

        return look

    monkeypatch.setattr(checks, "machine", plain("machine"))
    monkeypatch.setattr(checks, "settings_in_use", plain("settings"))
    monkeypatch.setattr(checks, "bundle", lambda _settings: (plain("bundle")(), tiny_manifest()))
    for check in ("networks", "queue", "restoration"):
        monkeypatch.setattr(checks, check, waited_for(check))


async def examined():
    return [finding async for finding in command.examine(Settings())]


@pytest.mark.parametrize("name", ["machine", "settings_in_use", "networks", "queue", "restoration"])
@pytest.mark.parametrize("when", ["at once", "awaited"])
@pytest.mark.usefixtures("sound")
async def test_an_error_that_a_check_does_not_know_is_its_finding(monkeypatch, name, when):
    def fails(*_arguments):
        raise KeyError("nobody thought of this")

    async def fails_later(*_arguments):
        fails()

    monkeypatch.setattr(checks, name, fails if when == "at once" else fails_later)
    findings = await examined()
    check = name.removesuffix("_in_use")
    assert [finding.check for finding in findings] == CHECKS
    assert [finding.check for finding in findings if finding.verdict is Verdict.FAILED] == [check]
    (finding,) = [finding for finding in findings if finding.check == check]
    assert finding.detail == "KeyError: 'nobody thought of this'"
    after = Verdict.SKIPPED if name == "networks" else Verdict.OK
    assert {finding.verdict for finding in findings if finding.check == "restoration" != check} <= {after}


@pytest.mark.usefixtures("sound")
async def test_the_table_as_json_is_whole_nevertheless(monkeypatch, capsys):
    monkeypatch.setattr(checks, "machine", lambda: 1 / 0)
    assert not await command.run(Settings(), Console(), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert [finding["check"] for finding in told] == CHECKS
    assert told[0]["detail"] == "ZeroDivisionError: division by zero"


def test_a_bundle_that_may_not_be_read_is_told(monkeypatch, tmp_path):
    def refused(_repository):
        raise PermissionError(13, "Permission denied", "model.onnx")

    monkeypatch.setattr(checks, "load_manifest", refused)
    finding, manifest = checks.bundle(Settings(model_repository=tmp_path))
    assert (finding.verdict, manifest) == (Verdict.FAILED, None)
    assert "Permission denied: 'model.onnx'" in finding.detail


def test_onnxruntime_of_another_distribution_is_as_good(monkeypatch):
    def absent(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", absent)
    monkeypatch.setattr(checks, "version", lambda: "1.0")
    monkeypatch.setitem(sys.modules, "onnxruntime", type("Gpu", (), {"__version__": "1.99.0"}))
    assert "onnxruntime 1.99.0, " in checks.machine().detail


def test_a_machine_without_onnxruntime_is_told_of(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "onnxruntime not installed, " in checks.machine().detail


@pytest.mark.parametrize("told", [None, "", "MemTotal: 1 kB\n", "MemAvailable: unclear\n", "no figures at all\n"])
def test_memory_that_the_system_does_not_tell_is_no_fault(monkeypatch, tmp_path, told):
    file = tmp_path / "meminfo"
    if told is not None:
        file.write_text(told)
    monkeypatch.setattr(checks, "_MEMORY", file)
    finding = checks.machine()
    assert finding.verdict is Verdict.OK
    assert finding.detail.endswith("memory left: unknown")


@pytest.mark.parametrize(("left_kb", "verdict"), [(512_000, Verdict.WARNING), (99_000_000, Verdict.OK)])
def test_memory_is_what_the_system_tells(monkeypatch, tmp_path, left_kb, verdict):
    file = tmp_path / "meminfo"
    file.write_text(f"MemTotal:       99999999 kB\nMemAvailable:   {left_kb} kB\nHugePages_Free:        0\n")
    monkeypatch.setattr(checks, "_MEMORY", file)
    monkeypatch.setattr(checks, "_GROUP", Path("/nowhere"))
    assert checks.machine().verdict is verdict


def test_a_kernel_that_confines_no_decoders_is_told_of(monkeypatch):
    monkeypatch.setattr(calls, "_SECCOMP_MODE_FILTER", 77)  # a mode that no kernel knows
    finding = checks.machine()
    assert finding.verdict is Verdict.WARNING
    assert "seccomp" in finding.remedy
