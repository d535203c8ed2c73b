"""`python -m zoo_exp embedded train` and `samples` on world 1: the commands' options and what they do."""

import argparse
import json
import time
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from zoo_exp.errors import InvalidValueError
from zoo_exp.quiet import quieten


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `embedded train`: one for each field of the recipe, and where and how to run."""
    from zoo_exp.embedded.recipe import Recipe

    group = parser.add_argument_group("world 1's model")
    group.add_argument(
        "--out", type=Path, default=Path("runs/embedded"), help="folder for checkpoints, log, weights"
    )
    group.add_argument(
        "--devices", type=int, default=2, help="processes, one thread each on a CPU (default 2)"
    )
    group.add_argument("--accelerator", default="cpu", help="cpu, gpu or auto (default cpu)")
    for field in fields(Recipe):
        flag = "--" + field.name.replace("_", "-")
        group.add_argument(
            flag, type=type(field.default), default=field.default, help=f"default {field.default}"
        )


def train(args: argparse.Namespace) -> int:
    """Train, or go on with what `--out` holds; then save the weights and report accuracy per family."""
    quieten()
    import lightning
    import torch
    from lightning.pytorch.callbacks import ModelCheckpoint
    from lightning.pytorch.strategies import DDPStrategy

    from zoo_exp.embedded.hub_names import save_model_files
    from zoo_exp.embedded.model import make_processor
    from zoo_exp.embedded.recipe import EPOCH, Recipe
    from zoo_exp.embedded.training import EmbeddedTraining

    recipe = Recipe(**{field.name: getattr(args, field.name) for field in fields(Recipe)})
    if args.devices < 1 or recipe.images % args.devices or recipe.dense_images % args.devices:
        raise InvalidValueError(
            f"--devices {args.devices} does not divide {recipe.images} and {recipe.dense_images} images per step"
        )
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    _check_recipe(args.out, recipe)
    module = EmbeddedTraining(recipe, args.out / "log.jsonl")
    trainer = lightning.Trainer(
        accelerator=args.accelerator,
        devices=args.devices,
        # The stages leave different parts of the model without gradients.
        strategy=DDPStrategy(find_unused_parameters=True) if args.devices > 1 else "auto",
        max_epochs=recipe.steps // EPOCH,
        limit_train_batches=EPOCH,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        callbacks=[
            ModelCheckpoint(
                args.out, filename="last", save_on_train_epoch_end=True, enable_version_counter=False
            )
        ],
        logger=False,
        enable_model_summary=False,
        default_root_dir=args.out,
    )
    last = args.out / "last.ckpt"
    started = time.time()
    trainer.fit(module, ckpt_path=last if last.is_file() else None, weights_only=True)
    if not trainer.is_global_zero:
        return 0
    weights = args.out / "weights"
    save_model_files(module.model, weights)
    make_processor().save_pretrained(weights)
    print(f"trained for {(time.time() - started) / 60:.0f} min in this run; weights: {weights}")
    _report(module.model, args.out / "accuracy.json")
    return 0


def _report(model: Any, path: Path) -> None:
    """Print and save accuracy per family, with 95 % Wilson intervals."""
    from rich.progress import track
    from rich.table import Table
    from scipy.stats import binomtest

    from zoo_exp.console import plain_console
    from zoo_exp.embedded.accuracy import family_accuracy
    from zoo_exp.embedded.questions import FAMILIES

    steps = iter(track(range(len(FAMILIES)), description="held-out questions", transient=True))
    next(steps)
    result = family_accuracy(model.eval(), advance=lambda: next(steps, None))
    table = Table("family", "questions", "all visual tokens", "none")

    def text(share: float, n: int) -> str:
        interval = binomtest(round(share * n), n).proportion_ci(method="wilson")
        return f"{100 * share:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]"

    for family, (full, blind, n) in result.items():
        table.add_row(family, str(n), text(full, n), text(blind, n))
    full, blind = (100 * sum(r[i] for r in result.values()) / len(result) for i in (0, 1))
    table.add_row(
        "average", str(sum(r[2] for r in result.values())), f"{full:.1f}", f"{blind:.1f}", style="bold"
    )
    plain_console().print(table)
    path.write_text(
        json.dumps({k: {"full": f, "blind": b, "n": n} for k, (f, b, n) in result.items()}, indent=1) + "\n"
    )


def add_samples_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `embedded samples`."""
    parser.add_argument(
        "--out", type=Path, default=Path("samples.png"), help="the image file (default samples.png)"
    )
    parser.add_argument(
        "--split",
        default="test",
        choices=("validation", "test", "confirm"),
        help="held-out split (default test); confirm is world 2's",
    )
    parser.add_argument(
        "--view",
        default="world1",
        choices=("world1", "world2", "world2_tiles", "world2_sizes"),
        metavar="VIEW",
        help="which images: world1, world2, world2_tiles or world2_sizes (default world1)",
    )
    parser.add_argument(
        "--scene",
        type=int,
        metavar="N",
        help="only the image of scene N of the split, from 0, such as for `ask`; its question is printed",
    )
    parser.add_argument("--per-family", type=int, default=3, help="scenes per question family (default 3)")


def samples(args: argparse.Namespace) -> int:
    """Draw held-out scenes with their questions."""
    from zoo_exp.embedded.samples import draw_samples, draw_scene

    if args.scene is not None:
        question = draw_scene(args.out, args.scene, args.split, args.view)
        print(f"{args.out}: {question.prompt} (answer: {question.answer})")
        return 0
    if args.per_family < 1:
        raise InvalidValueError(f"--per-family {args.per_family}: give 1 or more")
    draw_samples(args.out, args.split, args.per_family, args.view)
    print(f"scenes and questions: {args.out}")
    return 0


def _check_recipe(out: Path, recipe: object) -> None:
    """Refuse to go on with another recipe's checkpoint."""
    file = out / "recipe.json"
    wanted = asdict(recipe)  # type: ignore[call-overload]
    if file.is_file() and (out / "last.ckpt").is_file():
        found = json.loads(file.read_text())
        changed = {key: (found.get(key), value) for key, value in wanted.items() if found.get(key) != value}
        if changed:
            listing = ", ".join(f"{key}: {old} there, {new} asked for" for key, (old, new) in changed.items())
            raise InvalidValueError(f"{out} holds a run with another recipe ({listing}): give another --out")
    file.write_text(json.dumps(wanted, indent=1) + "\n")
