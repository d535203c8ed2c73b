"""Run an experiment or resume it; recorded answers are skipped.

Overrides are key=value pairs in Hydra's grammar; key=, +key= and ++key= mean the same:
  +exp=NAME                     experiment file (list exps)
  model=NAME                    model (list models); model.layers=4 changes one of its fields
  model=[A,B]                   several models: a run for each, and one table
  selector=NAME, [A,B]          selectors that replace the experiment's arms (list selectors);
                                FILE.py:CLASS is your own
  selector.options.KEY=VALUE    option of those of these selectors that have it
  budget=16, [48,16], 11.1%     budgets that replace the experiment's; budget='<=64' keeps at most 64 tokens
  task=NAME, [A,B]              tasks or sets of tasks (list tasks); FILE.jsonl, .csv, .parquet is your own,
                                scored by task.metric=exact_match, vqa_accuracy or multiple_choice
  limit=N                       first N units of each task: questions, MME pairs, MMBench groups (limit=null: all)
  out=DIR                       parent of the run folders (default: runs)
  fresh=true                    start anew: recorded answers are set aside, none are taken from earlier runs
  cache.features=DIR            cache of vision features, shared by runs and processes;
                                cache.limit_gb=50 bounds its size
  model.path=DIR                local checkpoint; model=NAME selects its family
  data=folder data.root=DIR     local benchmark files (check them with data check TASK --root DIR)
  trainer=ddp                   several GPUs, one process each: trainer.devices=4 (trainer=cpu: no GPU)
  engine=vllm                   vLLM generates the responses: engine.url=8000 asks a running server,
                                engine.tensor_parallel=2 uses 2 GPUs (docs/vllm.md)
  engine.arms_per_call=8        up to 8 arms of one budget in one call of transformers' generate (docs/speed.md)
  logger=none                   no W&B (default: logger=wandb; logger.mode=offline uploads nothing)
  --config-dir DIR              your own configurations, e.g. DIR/exp/NAME.yaml, in the format of configs/exp

Examples:
  python -m zoo_exp run +exp=ablation_fusion
  python -m zoo_exp run +exp=ablation_fusion limit=20 task=embedded_pope
  python -m zoo_exp run selector=[full,zoo] selector.seeds=1 budget=[32,16]
  python -m zoo_exp run selector=zoo selector.options.fusion=none,sum,multiply -m    a sweep: a run per value, one table
  python -m zoo_exp run +exp=ablation_fusion model=llava_next_7b --cfg job           print the configuration
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
from zoo_exp.evaluation import stop
from zoo_exp.wording import counted

if TYPE_CHECKING:
    from zoo_exp.config.experiment import Experiment
    from zoo_exp.config.sweep import Point


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Overrides and flags of `run`."""
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="overrides of the defaults")
    parser.add_argument(
        "-m",
        "--multirun",
        action="store_true",
        help="run a sweep: one process for each combination of comma-separated values",
    )
    parser.add_argument(
        "--cfg",
        choices=("job", "sweep"),
        help="print the configuration, or the points of the sweep, and exit",
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=run)


def add_config_dir(parser: argparse.ArgumentParser) -> None:
    """The flag for the user's own configuration folders."""
    parser.add_argument(
        "--config-dir",
        action="append",
        default=[],
        metavar="DIR",
        help="folder with your own configuration files, in the groups of configs/; may be repeated",
    )


def run(args: argparse.Namespace) -> int:
    """Compose and check everything, then run one experiment here, or every point of a sweep in a process of its own."""
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
            cache = Path(point.experiment.cache.features).expanduser()
            # A folder that can only be read still saves the encoding of what is in it.
            if not (cache.is_dir() and os.access(cache, os.R_OK | os.X_OK)):
                check_writable(cache, "cache.features")
    if stop.requested():
        return stopped()
    for text in dict.fromkeys(text for point in found for text in point.experiment.notes):
        note(text)
    if args.multirun or len(found) > 1:
        flags = [text for folder in args.config_dir for text in ("--config-dir", folder)]
        code = sweep([point.overrides for point in found], [*flags, *(["--debug"] if args.debug else [])])
        if code != stop.EXIT_CODE and len(found) > 1:
            sweep_table(found)
        return code
    check_sources(found[0].experiment)
    from zoo_exp import pipeline

    if stop.requested():
        return stopped()
    code: int = pipeline.run(found[0].experiment)
    return code


def sweep_table(found: "Sequence[Point]") -> None:
    """Print and write the table of a sweep, of the points that have records."""
    from zoo_exp.config.identity import digest
    from zoo_exp.console import plain_console
    from zoo_exp.report import sweep_report

    runs = [point.experiment.run_dir for point in found]
    folder = runs[0].parent / f"sweep_{digest(sorted(run.name for run in runs))}"
    sweep_report.write(folder, [point.overrides for point in found], runs, plain_console())


def stopped() -> int:
    """Say that a signal came before anything was answered; the exit code."""
    number = stop.requested()
    print(f"stopped by {number.name if number else 'a signal'}; rerun the same command to start")
    return stop.EXIT_CODE


def check_writable(folder: Path, key: str = "out") -> None:
    """Check that a folder can be written to before a model is loaded.

    Raises:
        InvalidValueError: the path is a file, or its parent folder is not writable.
    """
    above = folder.absolute()
    while not above.exists():
        above = above.parent
    if not above.is_dir():
        raise InvalidValueError(f"{key}={folder}: {above} is a file; give a folder: {key}=DIR")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _unwritable(folder, key, above)
    try:  # permissions are not enough: the file system may be read-only, full, or virtual like /proc
        with tempfile.TemporaryFile(dir=above):
            pass
    except OSError as error:
        raise _unwritable(folder, key, above) from error


def _unwritable(folder: Path, key: str, above: Path) -> InvalidValueError:
    return InvalidValueError(f"{key}={folder}: {above} is not writable; give another folder: {key}=DIR")


def check_sources(experiment: "Experiment") -> None:
    """Check the folders of model and data before anything slow runs; print a note if the hub is unreachable.

    Raises:
        ZooExpError: see `evaluation.sources.check`.
    """
    from zoo_exp.evaluation import sources

    sources.check(experiment, note)


def note(text: str) -> None:
    """Print one line to standard error."""
    print(text, file=sys.stderr, flush=True)


def sweep(points: Sequence[Sequence[str]], flags: Sequence[str]) -> int:
    """Run each point in a process of its own, which isolates crashes and device memory; print how each ended.

    Returns:
        0 if every point succeeded, 75 after a signal to stop, else the first nonzero exit code.
    """
    codes: list[tuple[int, float]] = []
    for number, overrides in enumerate(points, start=1):
        print(f"[{number}/{len(points)}] {' '.join(overrides)}", flush=True)
        started = time.monotonic()
        code = _call([sys.executable, "-m", "zoo_exp", "run", *flags, *overrides])
        codes.append((code, time.monotonic() - started))
        if code == 130:
            raise KeyboardInterrupt
        if stop.requested():
            print(
                f"stopped after {number} of {counted(len(points), 'point')}; rerun the same command to resume"
            )
            return stop.EXIT_CODE
    print(f"\n{counted(len(points), 'point')}, {sum(code != 0 for code, _ in codes)} failed")
    for overrides, (code, seconds) in zip(points, codes, strict=True):
        print(f"  {'ok' if code == 0 else f'exit code {code}':<14}{seconds:8.1f} s  {' '.join(overrides)}")
    return next((code for code, _ in codes if code), 0)


def _call(command: Sequence[str]) -> int:
    """Run a command to its end; after Ctrl-C or a signal to stop, wait until the child has saved its records."""
    child = subprocess.Popen(command)
    told = False
    try:
        while True:
            try:
                return child.wait(timeout=0.2)
            except subprocess.TimeoutExpired:
                number = stop.requested()
                if number is not None and not told:  # `kill` may have sent it to this process only
                    child.send_signal(number)
                    told = True
    except KeyboardInterrupt:
        try:  # a terminal sends Ctrl-C to both processes; `kill` may have sent it to this one only
            child.wait(timeout=2)
        except subprocess.TimeoutExpired:
            child.send_signal(signal.SIGINT)
            child.wait()
        raise
