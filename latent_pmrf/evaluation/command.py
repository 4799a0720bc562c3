"""`latent_pmrf.cli evaluate`: measure a bundle, print the tables, fail when a floor is missed.

The project's validation faces are held against the quality floors (`report`); any other folder is surveyed (`survey`).
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Sequence
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
from latent_pmrf.evaluation.bundle import BundleRestorer, read_manifest
from latent_pmrf.evaluation.dataset import LEVELS
from latent_pmrf.evaluation.folders import CLEAN, scan_folder
from latent_pmrf.evaluation.growing import GrowingTable
from latent_pmrf.evaluation.identity import dlib_is_installed
from latent_pmrf.evaluation.learned import load_learned
from latent_pmrf.evaluation.measures import WEIGHTS
from latent_pmrf.evaluation.model_card import bundle_size_bytes, write_card_pictures, write_model_card
from latent_pmrf.evaluation.report import EvaluationPlan, evaluate, results_of
from latent_pmrf.evaluation.survey import SurveyPlan, reasons_to_skip, survey
from latent_pmrf.evaluation.survey_report import survey_markdown, write_survey

_FLOOR_MISSED = 1
_UNUSABLE = 2
_LINE_EVERY_S = 15.0
_SURVEY_ONLY = ("weights", "fidelities", "clean", "reference", "landmarks", "device")
_LANDMARKS, _DEVICE = 68, "cpu"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `evaluate`."""
    parser.add_argument("--bundle", type=Path, default=Path("model_repository"), help="folder with manifest.json")
    parser.add_argument(
        "--data",
        type=Path,
        default=Path("../shared/faces/val"),
        help="aligned faces: clean/ and one folder per level, or degraded faces alone",
    )
    parser.add_argument("--out", type=Path, help="folder of the report; default: runs/evaluation, or a folder in it")
    parser.add_argument("--limit", type=_positive, help="measure only this many faces of each level, evenly spread")
    parser.add_argument("--threads", type=_positive, help="threads and processes; default: all cores")
    parser.add_argument("--steps", type=_positive, nargs="+", help="steps to sample; default: 1 2 5 10 25 (50)")
    parser.add_argument("--seeds", type=_seed, nargs="+", default=[0], help="the sweeps use the first")
    parser.add_argument("--no-identity", action="store_true", help="without dlib; the floors on identity then fail")
    parser.add_argument("--model-card", type=Path, help="also write the model card here, pictures in images/ beside it")
    parser.add_argument(
        "--floors",
        action=argparse.BooleanOptionalAction,
        help="hold the bundle against the quality floors; default: where --data has clean, moderate and severe",
    )
    group = parser.add_argument_group("without floors")
    group.add_argument("--clean", type=Path, metavar="DIR", help="clean faces of the same names, if not in DATA/clean")
    group.add_argument(
        "--reference", type=Path, metavar="DIR", help="real faces for FID and its kin; default: the clean faces"
    )
    group.add_argument(
        "--weights",
        action="append",
        metavar="KIND=FILE",
        help=f"weights of a measure, once for each of {', '.join(WEIGHTS)}: ONNX, TorchScript or the public file",
    )
    group.add_argument("--fidelities", type=_fraction, nargs="+", help="blends to measure; default: 0, 0.1, ... 1")
    group.add_argument("--landmarks", type=int, choices=(68, 5), help=f"dlib's landmarks; default: {_LANDMARKS}")
    group.add_argument("--device", help=f"where torch runs the given weights; default: {_DEVICE}")


def run(args: argparse.Namespace) -> int:
    """Measure and report.

    Returns:
        0 when every floor holds or none is asked for, 1 when one is missed, 2 when the bundle, the data or the weights
        cannot be used.
    """
    console = Console()
    try:
        return _run_floors(args, console) if _wants_floors(args) else _run_survey(args, console)
    except (ValueError, ImportError, OSError) as error:
        _say(console, f"evaluate: {error}")
        return _UNUSABLE


def _run_floors(args: argparse.Namespace, console: Console) -> int:
    lost = [f"--{name}" for name in _SURVEY_ONLY if getattr(args, name) is not None]
    if lost:
        raise ValueError(f"{', '.join(lost)}: add --no-floors; the report of the floors has fixed measures")
    out = args.out or Path("runs/evaluation")
    defaults = EvaluationPlan()
    plan = EvaluationPlan(
        num_steps=tuple(args.steps or defaults.num_steps),
        seeds=tuple(args.seeds),
        limit=args.limit,
        num_threads=args.threads or os.cpu_count() or 1,
        with_identity=not args.no_identity,
    )
    with _Display(console) as display:
        evaluation = evaluate(args.bundle, args.data, out, plan, display.update)
    results = results_of(evaluation)
    _say(console, tables.report_markdown(results))
    _say(console, f"Report, tables and pictures: {out}")
    if args.model_card is not None:
        manifest = evaluation.bundle.manifest
        size = bundle_size_bytes(args.bundle, manifest)
        write_model_card(results, manifest, args.model_card, bundle_bytes=size)
        write_card_pictures(evaluation, results, args.model_card.parent / "images")
        _say(console, f"Model card: {args.model_card}")
    missed = [floor for floor in evaluation.floors if not floor.passed]
    _say(console, f"{len(missed)} of {len(evaluation.floors)} floors missed" if missed else "All floors hold")
    return _FLOOR_MISSED if missed else 0


def _run_survey(args: argparse.Namespace, console: Console) -> int:
    if args.model_card is not None:
        raise ValueError("--model-card: only the report of the floors has one")
    if len(args.seeds) > 1:
        raise ValueError("--seeds: only the report of the floors takes several")
    out = args.out or Path("runs/evaluation") / args.data.resolve().name
    num_threads = args.threads or os.cpu_count() or 1
    bundle = BundleRestorer(args.bundle, num_threads)
    folder = scan_folder(args.data, args.clean, args.reference, args.limit)
    learned = load_learned(_given_weights(args.weights or []), args.device or _DEVICE)
    defaults = SurveyPlan()
    plan = SurveyPlan(
        num_steps=tuple(args.steps or defaults.num_steps),
        fidelities=tuple(args.fidelities or defaults.fidelities),
        seed=args.seeds[0],
        num_threads=num_threads,
        num_landmarks=None if args.no_identity or not dlib_is_installed() else args.landmarks or _LANDMARKS,
    )
    for key, reason in reasons_to_skip(plan, folder, learned, bundle.spec.image_size_px).items():
        _say(console, f"without {key}: {reason}")
    with GrowingTable(out) as table:
        with _Display(console) as display:
            measured = survey(bundle, folder, learned, plan, display.update, table.add)
        results = write_survey(measured, out)
    _say(console, survey_markdown(results))
    _say(console, f"Report, tables and pictures: {out}")
    return 0


def _wants_floors(args: argparse.Namespace) -> bool:
    if args.floors is not None:
        return bool(args.floors)
    has_layout = all((args.data / folder).is_dir() for folder in (CLEAN, *LEVELS))
    return has_layout and read_manifest(args.bundle).get("space") == "latent"


def _given_weights(given: Sequence[str]) -> dict[str, Path]:
    """`KIND=FILE` to files by kind."""
    weights: dict[str, Path] = {}
    for text in given:
        kind, separator, path = text.partition("=")
        if not separator or not path or kind in weights:
            raise ValueError(f"--weights {text}: expected KIND=FILE, each kind once")
        weights[kind] = Path(path)
    return weights


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


def _fraction(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text} is not from 0 to 1")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"{text} is not at least 0")
    return value


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is not at least 1")
    return value
