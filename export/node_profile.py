"""Where the time of a network goes in onnxruntime: by kind of operator, and the dearest single ones.

    content of an ONNX file -> a session that notes every operator's time -> tables

Each operator counts with its least time of all calls: what it costs when nothing is in its way.
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from export.parity import served_options

_CALLS = 30
_SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True)
class Group:
    """Operators that are counted together.

    Attributes:
        name: What they are.
        count: How many.
        ms: Their times, added up.
    """

    name: str
    count: int
    ms: float


@dataclass(frozen=True, slots=True)
class Profile:
    """A network's operators.

    Attributes:
        kinds: By kind of operator, the dearest first.
        shapes: By kind and shapes of inputs and outputs, the dearest first.
    """

    kinds: Sequence[Group]
    shapes: Sequence[Group]

    @property
    def ms(self) -> float:
        """All operators together; a call takes longer by what lies between them."""
        return sum(group.ms for group in self.kinds)


def profile(content: bytes, feeds: Mapping[str, npt.NDArray[np.float32]], num_threads: int) -> Profile:
    """Call a network thirty times under onnxruntime's profiler.

    Args:
        content: An ONNX file.
        feeds: Inputs by name.
        num_threads: Threads of a call.
    """
    import onnxruntime

    options = served_options(num_threads)
    options.enable_profiling = True
    with tempfile.TemporaryDirectory() as folder:
        options.profile_file_prefix = str(Path(folder) / "profile")
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        for _ in range(_CALLS):
            session.run(None, dict(feeds))
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
    return of_events(events)


def of_events(events: Sequence[Mapping[str, Any]]) -> Profile:
    """Sum up the profiler's events."""
    least: dict[str, float] = {}
    facts: dict[str, Mapping[str, Any]] = {}
    for event in events:
        name = event["name"]
        if event.get("cat") == "Node" and name.endswith(_SUFFIX):
            least[name] = min(least.get(name, np.inf), event["dur"] / 1e3)
            facts[name] = event["args"]
    kinds = {name: str(fact["op_name"]) for name, fact in facts.items()}
    shapes = {name: f"{kinds[name]} {_sizes(fact)}" for name, fact in facts.items()}
    return Profile(_grouped(kinds, least), _grouped(shapes, least))


def _grouped(labels: Mapping[str, str], ms: Mapping[str, float]) -> list[Group]:
    found: dict[str, list[float]] = {}
    for name, label in labels.items():
        found.setdefault(label, []).append(ms[name])
    groups = [Group(label, len(values), sum(values)) for label, values in found.items()]
    return sorted(groups, key=lambda group: -group.ms)


def _sizes(fact: Mapping[str, Any]) -> str:
    sides = (fact.get("input_type_shape", ()), fact.get("output_type_shape", ()))
    return " -> ".join(
        ", ".join("x".join(map(str, size)) or "()" for face in side for size in face.values()) for side in sides
    )


def profile_table(name: str, found: Profile, most: int) -> Iterator[str]:
    """The lines of two Markdown tables: kinds of operators, and the dearest by shapes.

    Args:
        name: The network.
        found: Its profile.
        most: Rows of each table.
    """
    for title, groups in (("kind", found.kinds), ("operator and shapes", found.shapes)):
        yield f"| {name}, {found.ms:.1f} ms: {title} | how many | ms | share |"
        yield "|---|---|---|---|"
        for group in groups[:most]:
            yield f"| {group.name} | {group.count} | {group.ms:.2f} | {group.ms / found.ms:.1%} |"
        yield ""
