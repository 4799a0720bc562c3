"""`python -m latent_pmrf.cli`: train a stage, or evaluate a bundle.

torch is imported by `train` alone; dlib, onnxruntime and matplotlib by `evaluate` when it comes to them.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from rich.logging import RichHandler

from latent_pmrf.evaluation import command


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse `arguments` (the process's by default), run the command, return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m latent_pmrf.cli", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    train = commands.add_parser("train", help="train one stage; goes on where an earlier run stopped")
    train.add_argument("stage", choices=("estimator", "vae", "flow"))
    train.add_argument("--config", type=Path, required=True, help="recipe, a YAML file")
    train.add_argument("--data", type=Path, default=Path("../shared/faces"), help="folder of shards and val/")
    train.add_argument("--runs", type=Path, default=Path("runs/xs"), help="folder of runs")
    train.add_argument("--device", default="cpu")
    train.add_argument("--steps", type=int, help="replace the recipe's number of steps")
    train.add_argument("--restart", action="store_true", help="forget what an earlier run has computed")
    command.add_arguments(commands.add_parser("evaluate", help="measure a bundle against the quality floors"))
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[RichHandler(show_path=False)])
    return _train(options) if options.command == "train" else command.run(options)


def _train(options: argparse.Namespace) -> int:
    from latent_pmrf.training.recipe import Places, build_trainer, load_recipe  # torch takes seconds

    overrides = {} if options.steps is None else {"steps": options.steps}
    try:
        recipe = load_recipe(options.config, overrides)
        if recipe.stage != options.stage:
            raise ValueError(f"{options.config} is a recipe for stage {recipe.stage}, not {options.stage}")
        trainer = build_trainer(recipe, Places(options.data, options.runs), options.device, restart=options.restart)
    except (ValueError, FileNotFoundError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    trainer.train()
    return 0 if trainer.step >= recipe.optim.steps else 130


if __name__ == "__main__":
    sys.exit(main())
