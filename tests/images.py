"""Dockerfiles and compose files as they are read by tests: instructions, stages, variables filled in."""

from __future__ import annotations

import fnmatch
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.processes import ROOT

DOCKER = ROOT / "docker"
FILE_OF = {"gateway": "service.Dockerfile", "worker": "service.Dockerfile", "triton": "triton.Dockerfile"}
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:?[-?])([^}]*))?\}")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One instruction of a Dockerfile.

    Attributes:
        word: FROM, COPY and so on.
        flags: `--from=build` and the like, by name.
        rest: What follows, continuation lines joined.
    """

    word: str
    flags: Mapping[str, str]
    rest: str

    @property
    def words(self) -> list[str]:
        """The rest as arguments: JSON where it is an array, else as a shell splits it."""
        return json.loads(self.rest) if self.rest.startswith("[") else shlex.split(self.rest)


@dataclass(slots=True)
class Stage:
    """One FROM with what follows it.

    Attributes:
        base: The image or stage it begins with, variables filled in.
        name: Its name, if it has one.
        instructions: What follows.
    """

    base: str
    name: str | None
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, word: str) -> list[Instruction]:
        """The instructions of one kind."""
        return [found for found in self.instructions if found.word == word]

    def last(self, word: str) -> Instruction:
        """The one that counts."""
        return self.all(word)[-1]

    @property
    def environment(self) -> dict[str, str]:
        """Variables that it sets."""
        return dict(pair.split("=", 1) for found in self.all("ENV") for pair in found.words)


def read_image(name: str) -> tuple[Stage, Stage]:
    """The stage `build` behind an image of ours, and the image: a stage of its name, with all that this begins with."""
    stages = {stage.name: stage for stage in read_dockerfile(DOCKER / FILE_OF[name])}
    image = stages[name]
    if image.base in stages:
        below = stages[image.base]
        image = Stage(below.base, name, below.instructions + image.instructions)
    return stages["build"], image


def read_dockerfile(path: Path) -> list[Stage]:
    """The stages of a Dockerfile; arguments before the first FROM are filled into the FROMs."""
    text = re.sub(r"\\\n", " ", re.sub(r"^\s*#.*\n", "", path.read_text(), flags=re.MULTILINE))
    arguments: dict[str, str] = {}
    stages: list[Stage] = []
    for line in filter(None, map(str.strip, text.splitlines())):
        word, _, rest = line.partition(" ")
        flags = dict(re.findall(r"--([a-z-]+)=(\S+)", rest)) if word in {"COPY", "FROM", "HEALTHCHECK"} else {}
        rest = re.sub(r"^(--[a-z-]+=\S+\s+)+", "", rest.strip()).strip()
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages.append(Stage(fill(base, arguments), name or None))
        elif not stages:
            assert word == "ARG"
            name, _, value = rest.partition("=")
            arguments[name] = value
        else:
            stages[-1].instructions.append(Instruction(word, flags, rest))
    return stages


def fill(text: str, variables: Mapping[str, str]) -> str:
    """Fill in `${NAME}`, `${NAME:-default}` and `${NAME:?what is missing}` as compose does."""

    def value(match: re.Match[str]) -> str:
        name, mark, otherwise = match.groups()
        if variables.get(name):
            return variables[name]
        if mark and mark.endswith("?"):
            raise KeyError(f"{name}: {otherwise}")
        return otherwise or ""

    return _VARIABLE.sub(value, text)


def read_compose(*names: str, variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Compose files of `docker/`, filled in and laid over one another as `--file` does: the later one wins."""
    merged: dict[str, Any] = {}
    for name in names:
        merged = _over(merged, _filled(yaml.safe_load((DOCKER / name).read_text()), variables or {}))
    return merged


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(item, variables) for key, item in value.items()}
    if isinstance(value, list):
        return [_filled(item, variables) for item in value]
    return fill(value, variables) if isinstance(value, str) else value


def _over(below: Any, above: Any) -> Any:
    if isinstance(below, dict) and isinstance(above, dict):
        return below | {key: _over(below[key], value) if key in below else value for key, value in above.items()}
    return above


def is_in_context(path: str) -> bool:
    """Whether a path of the checkout is sent to the builder, by `.dockerignore` (its last pattern that fits counts)."""
    sent = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.strip()
        if not pattern or pattern.startswith("#"):
            continue
        allowed, pattern = pattern.startswith("!"), pattern.removeprefix("!")
        anywhere, pattern = pattern.startswith("**/"), pattern.removeprefix("**/")
        parts = [Path(path), *Path(path).parents]
        if any(fnmatch.fnmatchcase(part.name if anywhere else str(part), pattern) for part in parts):
            sent = allowed
    return sent
