"""`python -m latent_pmrf.cli`: train a stage, import weights, enlarge an estimator, or evaluate a bundle.

torch is imported by the first three alone; dlib, onnxruntime and matplotlib by `evaluate` when it comes to them.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.logging import RichHandler

from latent_pmrf.evaluation import command

_IMPORTED = {
    "pmrf": "PMRF's flow with its estimator",
    "estimator": "DifFace's SwinIR",
    "vae": "Sim-VAE, with its config.json",
    "flow": "a flow of the Latent-PMRF code, on the latents of --vae",
}
"""Kinds of public files (`latent_pmrf.importing`), for the help."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments` (the process's by default), run the command, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m latent_pmrf.cli", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train one stage; goes on where an earlier run stopped")
    train.add_argument("stage", choices=("estimator", "vae", "flow"))
    train.add_argument("--config", type=Path, required=True, help="recipe, a YAML file")
    train.add_argument("--data", type=Path, default=Path("../shared/faces"), help="folder of shards and val/")
    train.add_argument("--runs", type=Path, default=Path("runs/s"), help="folder of runs")
    train.add_argument("--device", default="cpu")
    train.add_argument("--steps", type=int, help="instead of the recipe's number of steps")
    train.add_argument(
        "--vgg19", type=Path, help="torchvision's vgg19-dcbb9e9d.pth, for recipes with a perceptual loss"
    )
    train.add_argument("--init", type=Path, help="weights file to begin a new run with, as far as its tensors fit")
    train.add_argument("--restart", action="store_true", help="forget what an earlier run has computed")
    _add_import(commands.add_parser("import", help="public weights, or those of an exported bundle, to runs"))
    enlarge = commands.add_parser("enlarge", help="an estimator's weights to those of one for pictures twice as large")
    enlarge.add_argument("weights", type=Path, help="weights file of a U-Net estimator")
    enlarge.add_argument("out", type=Path, help="weights file to write, for train --init")
    command.add_arguments(commands.add_parser("evaluate", help="measure a bundle against the quality floors"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    run = {"train": _train, "import": _import, "enlarge": _enlarge, "evaluate": _evaluate}
    return run[options.command](options)


def _add_import(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--runs", type=Path, required=True, help="folder to write, then given to the export as --runs")
    for kind, what in _IMPORTED.items():
        parser.add_argument(f"--{kind}", type=Path, metavar="FILE", help=f"{what}; .safetensors, .pth or .ckpt")
        parser.add_argument(
            f"--{kind}-config", type=Path, metavar="FILE", help="its public configuration, JSON, where it is not found"
        )
    parser.add_argument("--bundle", type=Path, metavar="DIR", help="instead of public files: an exported bundle")
    parser.add_argument("--sigma-s", type=float, metavar="X", help="source noise; default: PMRF's own, else 0.1")


def _import(options: argparse.Namespace) -> int:
    from latent_pmrf.bundle_weights import import_bundle  # torch takes seconds
    from latent_pmrf.importing import PublicFile, PublicFiles, import_public

    given = vars(options)
    files = {kind: PublicFile(given[kind], given[f"{kind}_config"]) for kind in _IMPORTED if given[kind] is not None}
    lonely = [kind for kind in _IMPORTED if given[kind] is None and given[f"{kind}_config"] is not None]
    try:
        if lonely:
            raise ValueError(f"--{lonely[0]}-config needs --{lonely[0]}")
        if options.bundle is not None:
            if files or options.sigma_s is not None:
                raise ValueError("--bundle is imported as it is: no other file or --sigma-s goes with it")
            import_bundle(options.bundle, options.runs, logging.getLogger(__name__).info)
            return 0
        import_public(options.runs, PublicFiles(**files), logging.getLogger(__name__).info, options.sigma_s)
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"error: {error}; nothing was written\n")
        return 2
    except OSError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _enlarge(options: argparse.Namespace) -> int:
    from latent_pmrf.config import HDiTConfig, UNetConfig
    from latent_pmrf.training.checkpoint import load_weights, save_weights
    from latent_pmrf.training.enlarge import enlarge, enlarge_flow, enlarged, enlarged_flow

    config: UNetConfig | HDiTConfig
    try:
        weights = load_weights(options.weights)
        if isinstance(weights.config, UNetConfig):
            stage, config, tensors = "estimator", enlarged(weights.config), enlarge(weights.config, weights.state_dict)
        elif isinstance(weights.config, HDiTConfig):
            stage, config, tensors = "flow", enlarged_flow(weights.config), enlarge_flow(weights.state_dict)
        else:
            raise ValueError(f"{options.weights} holds neither a U-Net estimator nor a velocity network")
        save_weights(options.out, config, tensors, {"stage": stage, "enlarged": weights.info})
    except (ValueError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def _evaluate(options: argparse.Namespace) -> int:
    if options.device is not None:
        from latent_pmrf.training.device import check_device  # torch takes seconds

        try:
            check_device(options.device)
        except ValueError as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
    return command.run(options)


def _train(options: argparse.Namespace) -> int:
    from latent_pmrf.data.pictures import UnreadablePicture
    from latent_pmrf.training.loop import Diverged
    from latent_pmrf.training.processes import joined  # torch takes seconds
    from latent_pmrf.training.recipe import load_recipe
    from latent_pmrf.training.setup import Places, build_trainer

    places = Places(options.data, options.runs, options.vgg19)
    with contextlib.ExitStack() as processes:
        try:
            group, device = processes.enter_context(joined(options.device))
            recipe = load_recipe(options.config, options.steps)
            if recipe.stage != options.stage:
                raise ValueError(f"{options.config} is a recipe for stage {recipe.stage}, not {options.stage}")
            with group.leader_first():
                trainer = build_trainer(
                    recipe, places, device, initial=options.init, restart=options.restart, group=group
                )
        except (ValueError, OSError) as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
        try:
            trainer.train()
        except UnreadablePicture as error:
            sys.stderr.write(f"error: {error}; mend or remove it: the run then goes on from its last checkpoint\n")
            return 2
        except OSError as error:
            sys.stderr.write(f"error: {error}; mend that: the run then goes on from its last checkpoint\n")
            return 2
        except Diverged as error:
            sys.stderr.write(f"error: {error}\n")
            return 2
    return 0 if trainer.step >= recipe.optim.steps else 130


if __name__ == "__main__":
    sys.exit(main())
