"""`latent_pmrf.cli evaluate`: measure a bundle, print the tables, fail when a floor is missed."""

from __future__ import annotations

import argparse
import os
import time
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from latent_pmrf.evaluation import tables
from latent_pmrf.evaluation.model_card import bundle_size_bytes, write_card_pictures, write_model_card
from latent_pmrf.evaluation.report import EvaluationPlan, evaluate, results_of

_FLOOR_MISSED = 1
_UNUSABLE = 2
_LINE_EVERY_S = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `evaluate`."""
    plan = EvaluationPlan()
    parser.add_argument("--bundle", type=Path, default=Path("model_repository"), help="folder with manifest.json")
    parser.add_argument("--data", type=Path, default=Path("../shared/faces/val"), help="validation faces")
    parser.add_argument("--out", type=Path, default=Path("runs/evaluation"), help="folder of the report")
    parser.add_argument("--limit", type=_positive, help="measure only this many faces, spread over the source sets")
    parser.add_argument("--threads", type=_positive, help="threads and processes; default: all cores")
    parser.add_argument("--steps", type=_positive, nargs="+", default=list(plan.num_steps), help="steps to sample")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(plan.seeds), help="the sweep uses the first")
    parser.add_argument("--no-identity", action="store_true", help="without dlib; the floors on identity then fail")
    parser.add_argument("--model-card", type=Path, help="also write the model card here, pictures in images/ beside it")


def run(args: argparse.Namespace) -> int:
    """Measure and report.

    Returns:
        0 when every floor holds, 1 when one is missed, 2 when the bundle or the data cannot be used.
    """
    console = Console()
    plan = EvaluationPlan(
        num_steps=tuple(args.steps),
        seeds=tuple(args.seeds),
        limit=args.limit,
        num_threads=args.threads or os.cpu_count() or 1,
        with_identity=not args.no_identity,
    )
    try:
        with _Display(console) as display:
            evaluation = evaluate(args.bundle, args.data, args.out, plan, display.update)
    except (ValueError, ImportError) as error:
        _say(console, f"evaluate: {error}")
        return _UNUSABLE
    results = results_of(evaluation)
    _say(console, tables.report_markdown(results))
    _say(console, f"Report, tables and pictures: {args.out}")
    if args.model_card is not None:
        manifest = evaluation.bundle.manifest
        size = bundle_size_bytes(args.bundle, manifest)
        write_model_card(results, manifest, args.model_card, bundle_bytes=size)
        write_card_pictures(evaluation, results, args.model_card.parent / "images")
        _say(console, f"Model card: {args.model_card}")
    missed = [floor for floor in evaluation.floors if not floor.passed]
    _say(console, f"{len(missed)} of {len(evaluation.floors)} floors missed" if missed else "All floors hold")
    return _FLOOR_MISSED if missed else 0


class _Display(AbstractContextManager["_Display"]):
    """Progress bars on a terminal, a line per finished stage (and now and then between) elsewhere."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._stage = ""
        self._task: TaskID | None = None
        self._started = self._spoken = time.monotonic()
        columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
        self._bars = Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=console)
        self._bars.disable = not console.is_terminal

    def __enter__(self) -> _Display:
        self._bars.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bars.stop()

    def update(self, stage: str, done: int, total: int) -> None:
        """Show that `done` of `total` items of a stage are finished."""
        if stage != self._stage:
            self._stage = stage
            self._task = self._bars.add_task(stage, total=total)
        if self._task is not None:
            self._bars.update(self._task, completed=done)
        now = time.monotonic()
        if not self._console.is_terminal and (done == total or now - self._spoken > _LINE_EVERY_S):
            self._spoken = now
            _say(self._console, f"{now - self._started:6.1f} s  {stage}  {done}/{total}")


def _say(console: Console, text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
