"""`python -m export.cli`: make a bundle, also in half precision or as engines; its defaults, times and costs."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from export.bundle import defaults_of, write_bundle
from export.cost import PIPELINES, cost_table, networks_of
from export.cpu_bench import CpuBench, network_table, processor, restoration_table
from export.engine import BuildOptions, require_tensorrt
from export.gpu import Roof, gpu_name, gpu_report
from export.half import PRECISIONS
from export.manifest import BundleFacts, set_defaults
from export.networks import graph_specs, native_size_px
from export.node_profile import profile, profile_table
from export.parity import Gate, ParityError, draw_all, feeds_of
from export.precision import PrecisionGate
from export.telling import say, telling
from export.tensorrt_operators import load_table
from export.to_tensorrt import plan_graphs, plan_profile, write_engines
from export.trained import awaken, load_trained
from export.variants import load_original, write_half

_FAILED = 1
_UNUSABLE = 2

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments` (the process's by default), run the command.

    Returns:
        0; 1 when the gate failed; 2 when what was given cannot be used, or the result cannot be written. Nothing is
        written unless it is 0, but for what a place that cannot be written to had taken before.
    """
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except ParityError as error:
        sys.stderr.write(f"error: parity: {error}; nothing was written\n")
        return _FAILED
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"error: {error}; nothing was written\n")
        return _UNUSABLE
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return _UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m export.cli", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    _add_bundle(commands, BundleFacts())
    _add_precisions(commands)
    _add_measurements(commands)
    return parser


def _add_bundle(commands: Commands, facts: BundleFacts) -> None:
    bundle = commands.add_parser("bundle", help="export trained weights into a model repository, behind the gate")
    bundle.set_defaults(run=_bundle)
    bundle.add_argument(
        "--runs", type=Path, default=Path("runs/s-flow_finish"), help="folder with estimator/, vae/ and flow/"
    )
    _add_repository(bundle)
    bundle.add_argument("--name", default=facts.name, help="bundle name")
    bundle.add_argument("--bundle-version", default=facts.version, metavar="VERSION", help="bundle version")
    bundle.add_argument(
        "--image-size-px",
        type=int,
        metavar="N",
        help=f"side of a crop; default: the estimator's own, {facts.image_size_px} where it takes any",
    )
    _add_defaults(bundle, "default: that of the bundle that is there, if any")
    bundle.add_argument(
        "--max-num-steps", type=int, default=facts.max_num_steps, metavar="N", help="most steps allowed"
    )
    bundle.add_argument(
        "--max-coarse-shift",
        type=float,
        metavar="X",
        help="a face that is moved by more, of 1 and without its detail, is left as it is; "
        "default: that of the bundle that is there, if any",
    )
    bundle.add_argument(
        "--max-roughness",
        type=float,
        metavar="X",
        help="a face on whose skin the estimator leaves more of the finest detail, of 1, is smoothed before it; "
        "default: that of the bundle that is there, if any",
    )
    bundle.add_argument(
        "--max-batch-size", type=int, default=facts.max_batch_size, metavar="N", help="most rows a call"
    )
    bundle.add_argument(
        "--batch-sizes", type=int, nargs="+", metavar="N", help="the only numbers of rows of a call; default: any"
    )
    bundle.add_argument(
        "--storage",
        choices=("float16", "float32"),
        default="float16",
        help="of the weights; the graphs compute in float32",
    )
    bundle.add_argument(
        "--max-megabytes",
        type=float,
        default=Gate().max_bytes / 1e6,
        metavar="MB",
        help="largest size of the files together",
    )

    defaults = commands.add_parser("set-defaults", help="write default steps, fidelity and measured quality, no export")
    defaults.set_defaults(run=_set_defaults)
    _add_repository(defaults)
    _add_defaults(defaults, "default: what --quality recommends")
    defaults.add_argument("--quality", type=Path, metavar="FILE", help="results.json of `make evaluate`")


def _add_precisions(commands: Commands) -> None:
    half = commands.add_parser("half", help="the bundle with its products in half precision, for onnxruntime on a GPU")
    half.set_defaults(run=_half)
    _add_repository(half)
    _add_precision(half)

    engines = commands.add_parser("tensorrt", help="the bundle as TensorRT engines for this machine's GPU")
    engines.set_defaults(run=_tensorrt)
    _add_repository(engines)
    _add_precision(engines)
    engines.add_argument("--workspace-gib", type=float, default=4.0, metavar="X", help="most GPU memory for tuning")
    engines.add_argument("--timing-cache", type=Path, metavar="FILE", help="measurements of earlier builds; extended")
    engines.add_argument("--level", type=int, metavar="N", help="time spent on tuning, 0 to 5; default: TensorRT's")
    engines.add_argument("--version-compatible", action="store_true", help="also for later TensorRT releases; slower")
    engines.add_argument("--hardware-compatible", action="store_true", help="also for other GPUs since Ampere; slower")
    engines.add_argument("--dry-run", action="store_true", help="check graphs and plan profiles; needs no TensorRT")


def _add_measurements(commands: Commands) -> None:
    cpu = commands.add_parser("cpu", help="a bundle's networks beside this processor's peak, by runtime; one face")
    cpu.set_defaults(run=_cpu)
    _add_repository(cpu)
    cpu.add_argument("--threads", type=int, default=os.cpu_count() or 1, metavar="N", help="threads of a call")
    cpu.add_argument("--seconds", type=float, default=6.0, metavar="S", help="for each row of the table, about")

    nodes = commands.add_parser("profile", help="where the time of a bundle's networks goes, by operator")
    nodes.set_defaults(run=_profile)
    _add_repository(nodes)
    nodes.add_argument("--threads", type=int, default=1, metavar="N", help="threads of a call")
    nodes.add_argument("--batch", type=int, default=1, metavar="N", help="rows of a call")
    nodes.add_argument("--most", type=int, default=12, metavar="N", help="rows of each table")

    cost = commands.add_parser("cost", help="parameters and arithmetic of the published and the bundled networks")
    cost.set_defaults(run=_cost)
    cost.add_argument("--gpu", action="store_true", help="also time the published and the bundled pipeline on the GPU")
    cost.add_argument("--peak-tflops", type=float, metavar="X", help="the GPU's dense bfloat16, from its data sheet")
    cost.add_argument("--peak-gbs", type=float, metavar="X", help="the GPU's memory bandwidth, likewise")
    _add_repository(cost)


def _add_repository(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model-repository", type=Path, default=Path("model_repository"), metavar="DIR")


def _add_precision(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--target", type=Path, required=True, metavar="DIR", help="model repository to write")
    parser.add_argument("--precision", choices=PRECISIONS, default="float16", help="of the products; default: float16")
    parser.add_argument(
        "--min-psnr-db",
        type=float,
        default=PrecisionGate().psnr_db,
        metavar="X",
        help="least PSNR of a restored picture beside PyTorch's",
    )


def _add_defaults(parser: argparse.ArgumentParser, otherwise: str) -> None:
    parser.add_argument("--num-steps", type=int, metavar="N", help=f"default number of steps; {otherwise}")
    parser.add_argument("--fidelity", type=float, metavar="X", help=f"default fidelity, 0 to 1; {otherwise}")


def _bundle(options: argparse.Namespace) -> int:
    trained = load_trained(options.runs)
    for stage, progress in trained.unfinished.items():
        say(f"warning: {stage} was taken at step {progress}")
    side_px = native_size_px(trained) if options.image_size_px is None else options.image_size_px
    facts = defaults_of(
        BundleFacts(
            name=options.name,
            version=options.bundle_version,
            image_size_px=BundleFacts().image_size_px if side_px is None else side_px,
            max_num_steps=options.max_num_steps,
            max_batch_size=options.max_batch_size,
            batch_sizes=None if options.batch_sizes is None else tuple(options.batch_sizes),
            half_storage=options.storage == "float16",
        ),
        _present(options.model_repository),
    )
    given = {
        "default_num_steps": options.num_steps,
        "default_fidelity": options.fidelity,
        "max_coarse_shift": options.max_coarse_shift,
        "max_roughness": options.max_roughness,
    }
    facts = replace(facts, **{name: value for name, value in given.items() if value is not None})
    gate = Gate(max_bytes=round(options.max_megabytes * 1e6))
    parts = len(graph_specs(trained, facts.image_size_px)) + 2 + facts.half_storage
    with telling("exporting", parts) as told:
        write_bundle(trained, options.model_repository, facts, gate, told)
    return 0


def _set_defaults(options: argparse.Namespace) -> int:
    manifest = set_defaults(
        options.model_repository, num_steps=options.num_steps, fidelity=options.fidelity, quality=options.quality
    )
    steps, fidelity = manifest["default_num_steps"], manifest["default_fidelity"]
    measured = any(row["method"] == "default" for row in manifest["quality"].get("rows", ()))
    note = "" if measured else "; the quality of this default is not measured yet: run make evaluate, then this again"
    say(f"{options.model_repository}: default {steps} steps, fidelity {fidelity:g}{note}")
    return 0


def _cpu(options: argparse.Namespace) -> int:
    bench = CpuBench(load_original(options.model_repository, say), options.threads, options.seconds)
    say(f"{processor()}, {options.threads} threads; the best of calls in turn: ms, GFLOP/s, share of the product's.")
    if not any(name.startswith("OpenVINO") for name in bench.runtimes):
        say("OpenVINO is not installed (extra `openvino`) and not measured.")
    for lines in (network_table(list(bench.networks())), *map(restoration_table, bench.restorations())):
        say("\n" + "\n".join(lines))
    return 0


def _profile(options: argparse.Namespace) -> int:
    original = load_original(options.model_repository, say)
    for spec in graph_specs(original.trained, int(original.manifest["image_size_px"])):
        feeds = feeds_of(spec, draw_all(spec, options.batch, original.trained.statistics, seed=1))
        found = profile(original.files[spec.name], feeds, options.threads)
        say("\n".join(profile_table(spec.name, found, options.most)))
    return 0


def _half(options: argparse.Namespace) -> int:
    original = load_original(options.model_repository, say)
    with telling("exporting", len(original.files) + 3) as told:
        write_half(original, options.target, options.precision, PrecisionGate(options.min_psnr_db), told)
    return 0


def _tensorrt(options: argparse.Namespace) -> int:
    build = BuildOptions(
        precision=options.precision,
        workspace_bytes=round(options.workspace_gib * 2**30),
        timing_cache=options.timing_cache,
        version_compatible=options.version_compatible,
        hardware_compatible=options.hardware_compatible,
        level=options.level,
    )
    if not options.dry_run:
        require_tensorrt()  # said before the work, not after it
    original = load_original(options.model_repository, say)
    if options.dry_run:
        for name in plan_graphs(original, build.precision):
            for tensor, shapes in plan_profile(original.manifest["networks"][name]).items():
                say(f"{name}: {tensor} {shapes.least} to {shapes.most}, tuned for {shapes.usual}")
        say(f"TensorRT {load_table().tensorrt} has every operator of these {build.precision} graphs")
        return 0
    with telling("building engines", len(original.files) + 2) as told:
        write_engines(original, options.target, build, PrecisionGate(options.min_psnr_db), told)
    return 0


def _cost(options: argparse.Namespace) -> int:
    if options.gpu:
        gpu_name()  # an error before the work, not after it
    for line in cost_table():
        say(line)
    if options.gpu:
        given = options.peak_tflops, options.peak_gbs
        roof = None if None in given else Roof(*given)
        published, bundled = networks_of(PIPELINES[0]), load_original(options.model_repository, say).trained
        for network in published.networks.values():
            awaken(network)
        for pipeline, trained, weights in (
            (PIPELINES[0], published, "random weights"),
            (PIPELINES[2], bundled, str(options.model_repository)),
        ):
            say("")
            for line in gpu_report(pipeline, trained, weights, roof):
                say(line)
    return 0


def _present(repository: Path) -> dict[str, Any] | None:
    path = repository / "manifest.json"
    if not path.exists():
        return None
    manifest: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return manifest


if __name__ == "__main__":
    sys.exit(main())
