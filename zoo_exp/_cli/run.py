"""Run an experiment, or go on with it: the same command skips what is recorded.

overrides are key=value in Hydra's grammar; key=, +key= and ++key= mean the same:
  +exp=NAME                     an experiment file (list exps)
  model=NAME                    the model (list models); model.layers=4 changes one of its fields
  selector=NAME, [A,B]          these selectors in the place of the experiment's arms
  selector.options.KEY=VALUE    an option of theirs
  budget=16, [48,16], 11.1%     these budgets in the place of the experiment's; budget='<=64': at most
  task=NAME, [A,B]              these tasks or sets of tasks (list tasks)
  limit=N                       the first N questions of each task (limit=null: all)
  out=DIR                       where run folders go (default: runs)
  cache.features=DIR            keep what the vision tower says of every image, for later runs and for other
                                processes; cache.limit_gb=50 bounds the folder
  model.path=DIR                a checkpoint in a folder of yours, with model=NAME for its family
  data=folder data.root=DIR     benchmark files in a folder of yours (data check TASK --root DIR)
  trainer=ddp                   several GPUs, a process each: trainer.devices=4 (trainer=cpu: none)
  logger=none                   nothing for W&B (logger=wandb is the default; logger.mode=offline stays here)
  --config-dir DIR              experiments of yours: DIR/exp/NAME.yaml, as those in configs/exp

Examples:
  python -m zoo_exp run +exp=ablation_fusion
  python -m zoo_exp run +exp=ablation_fusion limit=20 task=embedded_pope
  python -m zoo_exp run selector=[full,zoo] selector.seeds=1 budget=[32,16]
  python -m zoo_exp run selector=zoo selector.options.fusion=none,sum,multiply -m    one run for each value
  python -m zoo_exp run +exp=ablation_fusion model=llava_next_7b --cfg job           what would run
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_exp.errors import InvalidValueError

if TYPE_CHECKING:
    from zoo_exp.config.experiment import Experiment


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Overrides and flags of `run`."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="what is different from the defaults"
    )
    parser.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="a sweep: one fresh process for each combination of comma values",
    )
    parser.add_argument(
        "--cfg", choices=("job", "sweep"), help="print the configuration, or the sweep's points; stop"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=run)


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """The flag for configuration folders of the user's own."""
    parser.add_argument(
        "--config-dir",
        action="append",
        default=[],
        metavar="DIR",
        help="a folder of yours with the same groups as configs/; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Compose and check everything, then run one experiment here, or each point of a sweep in a process."""
    from zoo_exp.config.sweep import points

    found = points(args.overrides, args.config_dir, sweep=args.multirun)
    if args.cfg == "sweep":
        for point in found:
            print(point.experiment.id, *point.overrides)
        return 0
    if args.cfg == "job":
        print("---\n".join(point.experiment.to_yaml() for point in found), end="")
        return 0
    for point in found:
        check_writable(point.experiment.out)
        if point.experiment.cache.features is not None:
            check_writable(Path(point.experiment.cache.features).expanduser(), "cache.features")
    if args.multirun:
        flags = [text for folder in args.config_dir for text in ("--config-dir", folder)]
        return sweep([point.overrides for point in found], [*flags, *(["--debug"] if args.debug else [])])
    check_sources(found[0].experiment)
    from zoo_exp import pipeline

    code: int = pipeline.run(found[0].experiment)
    return code


def check_writable(folder: Path, key: str = "out") -> None:
    """Refuse a folder to write to, given with `key`, before any model is loaded.

    Raises:
        InvalidValueError: a file is in the way, or the folder above cannot be written to.
    """
    above = folder.absolute()
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise InvalidValueError(f"{key}={folder}: {above} is a file; give a folder: {key}=DIR")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _unwritable(folder, key, above)
    try:  # permissions do not say everything: a file system may be read-only, full, or none at all like /proc
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise _unwritable(folder, key, above) from error


def _unwritable(folder: Path, key: str, above: Path) -> InvalidValueError:
    return InvalidValueError(f"{key}={folder}: {above} cannot be written to; give another folder: {key}=DIR")


def check_sources(experiment: "Experiment") -> None:
    """Refuse missing folders of model and data before anything slow; say so where the hub cannot be reached.

    Raises:
        ZooExpError: see `evaluation.sources.check`.
    """
    from zoo_exp.evaluation import sources

    sources.check(experiment, note)


def note(text: str) -> None:
    """One line beside the output."""
    print(text, file=sys.stderr, flush=True)


def sweep(points: Sequence[Sequence[str]], flags: Sequence[str]) -> int:
    """Run each point in a fresh process, so that crashes and device memory stay apart; say how each ended.

    Returns:
        0 if every point ended well, else the first exit code that is not 0.
    """
    codes: list[tuple[int, float]] = []
    for number, overrides in enumerate(points, start=1):
        print(f"[{number}/{len(points)}] {' '.join(overrides)}", flush=True)
        started = time.monotonic()
        code = _call([sys.executable, "-m", "zoo_exp", "run", *flags, *overrides])
        codes.append((code, time.monotonic() - started))
        if code == 130:
            raise KeyboardInterrupt
    print(f"\n{len(points)} points, {sum(code != 0 for code, _ in codes)} failed")
    for overrides, (code, seconds) in zip(points, codes, strict=True):
        print(f"  {'ok' if code == 0 else f'exit code {code}':<14}{seconds:8.1f} s  {' '.join(overrides)}")
    return next((code for code, _ in codes if code), 0)


def _call(command: Sequence[str]) -> int:
    """Run a command to its end, also when Ctrl-C arrives: the child writes down what it has, then we stop."""
    child = subprocess.Popen(command)
    try:
        return child.wait()
    except KeyboardInterrupt:
        try:  # a terminal sends Ctrl-C to both of us; `kill` may have sent it to this process alone
            child.wait(timeout=2)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
            child.wait()
        raise
