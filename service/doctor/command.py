"""`latent-pmrf doctor`: makes the checks, one line each as it is made, and what to do at the end."""

from __future__ import annotations

import dataclasses
import inspect
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import ParamSpec

from rich.console import Console
from rich.text import Text

from service.core.settings import Settings
from service.doctor import checks
from service.doctor.findings import Finding, Verdict

P = ParamSpec("P")
_STYLES = {Verdict.OK: "green", Verdict.WARNING: "yellow", Verdict.FAILED: "bold red", Verdict.SKIPPED: "dim"}
_VERDICT_COLUMN, _CHECK_COLUMN = 9, 13


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Every finding, in the order of what rests on what."""
    yield await _made("machine", checks.machine)
    yield await _made("settings", checks.settings_in_use, settings)
    found, manifest = checks.bundle(settings)
    yield found
    if manifest is None:
        yield checks.skipped("networks", "bundle")
        yield await _made("queue", checks.queue, settings, None)
        yield checks.skipped("restoration", "bundle")
        return
    loaded = await _made("networks", checks.networks, settings, manifest)
    yield loaded
    yield await _made("queue", checks.queue, settings, manifest)
    if loaded.verdict is Verdict.FAILED:
        yield checks.skipped("restoration", "networks")
    else:
        yield await _made("restoration", checks.restoration, settings)


async def run(settings: Settings, console: Console, *, as_json: bool) -> bool:
    """Examine the installation.

    Args:
        settings: The operator's.
        console: Shown a line for each check.
        as_json: Write the findings to standard output at the end instead.

    Returns:
        Whether nothing has failed.
    """
    findings = []
    async for finding in examine(settings):
        findings.append(finding)
        if not as_json:
            _show(finding, console)
    failed = sum(finding.verdict is Verdict.FAILED for finding in findings)
    if as_json:
        sys.stdout.write(json.dumps([dataclasses.asdict(finding) for finding in findings], indent=2) + "\n")
    else:
        console.print("All is well." if not failed else f"{failed} of {len(findings)} checks failed.", highlight=False)
    return failed == 0


async def _made(
    check: str, look: Callable[P, Finding | Awaitable[Finding]], *args: P.args, **kwargs: P.kwargs
) -> Finding:
    """What a check finds; an error that it does not know is a finding, too."""
    try:
        found = look(*args, **kwargs)
        return await found if inspect.isawaitable(found) else found
    except Exception as error:  # noqa: BLE001 - whoever asks what is wrong is told all that is
        return checks.unexpected(check, error)


def _show(finding: Finding, console: Console) -> None:
    line = Text(f"{finding.verdict:{_VERDICT_COLUMN}}", _STYLES[finding.verdict])
    line.append(f"{finding.check:{_CHECK_COLUMN}}{finding.detail}", "default")
    console.print(line, soft_wrap=True)
    if finding.remedy:
        console.print(Text(" " * (_VERDICT_COLUMN + _CHECK_COLUMN) + f"-> {finding.remedy}"), soft_wrap=True)
