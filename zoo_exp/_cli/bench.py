"""Benchmark latency, FLOPs and peak memory per stage for every arm.

Overrides are those of `run` (model, selector, budget, task, +exp), and:
  batch=[1,8]        batch sizes (default: 1)
  new_tokens=16      generated tokens per prompt
  repeats=10         timed passes per arm
  warmup=2           untimed passes before them
  threads=1          torch threads on a CPU (default: all that the process may use)
  clock=process      CPU time of one thread, for shared machines (default: wall)
  text=60            words per synthetic prompt, for models without a processor or with random weights
  image=672x672      size of the synthetic image, height x width
A model with a processor gets the first questions of the experiment's first task. With +exp=NAME the experiment runs
or resumes first, and the figure of score against latency is drawn as well.

Examples:
  python -m zoo_exp bench selector=[full,zoo,zoo_closed_form,divprune] budget=16 batch=[1,8]
  python -m zoo_exp bench +exp=efficiency
  python -m zoo_exp bench model=llava_next_7b model.weights=random selector=[full,zoo] budget=[640,160] batch=[1,8]
"""

import argparse
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

from zoo_exp._cli.run import add_config_dir, check_sources, check_writable
from zoo_exp.errors import InvalidValueError

if TYPE_CHECKING:
    import torch

    from zoo_exp.config.experiment import Experiment
    from zoo_exp.models.loading import LoadedModel

DEFAULTS: dict[str, Any] = {
    "batch": [1],
    "new_tokens": 16,
    "repeats": 10,
    "warmup": 2,
    "threads": None,
    "clock": "wall",
    "text": 60,
    "image": "672x672",
}
DEFAULT_ARMS = "selector=[full,divprune,zoo_closed_form,zoo]"


MOST_THREADS = 4096
"""Largest number of threads that `bench` accepts."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Overrides and flags of `bench`."""
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="overrides of `run`, and benchmark settings"
    )
    parser.add_argument("--cfg", choices=("job",), help="print the configuration and exit")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    add_config_dir(parser)
    parser.set_defaults(handler=bench)


def bench(args: argparse.Namespace) -> int:
    """Measure, print the table, and write table and figures to the run folder."""
    from zoo_exp.config.compose import compose
    from zoo_exp.config.engines import needs_transformers
    from zoo_exp.console import plain_console
    from zoo_exp.runs.folder import bench as bench_folder

    settings, overrides = take_settings(args.overrides)
    chosen = [text.lstrip("+").partition("=")[0] for text in overrides]
    if "exp" not in chosen and "selector" not in chosen:
        overrides = [*overrides, DEFAULT_ARMS]
    experiment = compose(overrides, args.config_dir)
    needs_transformers(experiment.engine, "bench")
    plan = _plan(settings)
    image = parse_image(settings["image"])
    if args.cfg == "job":
        import yaml

        print(experiment.to_yaml() + yaml.safe_dump({"bench": settings}, sort_keys=False), end="")
        return 0
    check_writable(experiment.out)
    check_sources(experiment)
    device = device_for(experiment.trainer.accelerator)
    console = plain_console()
    if "exp" in chosen:
        from zoo_exp import pipeline

        pipeline.run(experiment, console)
    _threads(settings["threads"])
    loaded = _load(experiment, device)
    prepare = _prepare(experiment, loaded, settings["text"], image)

    from zoo_exp.measure.bench import run_bench
    from zoo_exp.report.bench_document import show_bench, write_bench

    arms = [replace(arm, label=arm.row) for arm in experiment.arms if not arm.seed_index]
    rows = run_bench(loaded, arms, prepare, plan, lambda line: console.print(line, style="dim"))
    folder = bench_folder(experiment.run_dir) / datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    scores, metric = _scores(experiment) if "exp" in chosen else ({}, "")
    write_bench(rows, folder, scores, metric)
    show_bench(rows, console)
    console.print(f"table and figures: {folder}", soft_wrap=True, highlight=False)
    return 0


def take_settings(overrides: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Split benchmark settings from overrides.

    Returns:
        The settings with their defaults filled in, and the overrides that are left.

    Raises:
        InvalidValueError: a value of the wrong kind.
    """
    from zoo_exp.config.overrides import parse, plain

    settings, rest = dict(DEFAULTS), []
    for text in overrides:
        key = text.lstrip("+").partition("=")[0]
        if key not in DEFAULTS:
            rest.append(text)
            continue
        (override,) = parse([text])
        value = plain(override.value())
        settings[key] = _check_setting(key, value)
    return settings, rest


def _check_setting(key: str, value: Any) -> Any:
    if key in ("image", "clock"):
        return value
    values = value if isinstance(value, list) else [value]
    if (isinstance(value, list) and key != "batch") or not values:
        raise InvalidValueError(f"{key}={value}: give one whole number, such as {key}=1")
    for one in values:
        if isinstance(one, bool) or not isinstance(one, int) or one < (0 if key == "warmup" else 1):
            raise InvalidValueError(
                f"{key}={value}: give a whole number of at least {0 if key == 'warmup' else 1}"
            )
    return values if key == "batch" else value


def parse_image(text: Any) -> tuple[int, int]:
    """Height and width in pixels.

    >>> parse_image("672x336")
    (672, 336)

    Raises:
        InvalidValueError: anything else.
    """
    parts = str(text).lower().split("x")
    if len(parts) != 2 or not all(part.isdigit() and int(part) for part in parts):
        raise InvalidValueError(f"image={text}: give height x width in pixels, such as image=672x672")
    return int(parts[0]), int(parts[1])


def device_for(accelerator: str) -> "torch.device":
    """Where the bench runs.

    Raises:
        InvalidValueError: a GPU was asked for and there is none.
    """
    import torch

    has_gpu = torch.cuda.is_available()
    if accelerator in ("gpu", "cuda") and not has_gpu:
        raise InvalidValueError(
            f"trainer.accelerator={accelerator}: torch finds no GPU here; give trainer=cpu, or run it on a GPU machine"
        )
    return torch.device("cuda" if has_gpu and accelerator != "cpu" else "cpu")


def _plan(settings: Mapping[str, Any]) -> Any:
    from zoo_exp.measure.bench import Plan

    return Plan(
        settings["batch"],
        settings["new_tokens"],
        settings["repeats"],
        settings["warmup"],
        str(settings["clock"]),
    )


def _threads(threads: int | None) -> None:
    """One thread setting for the whole bench."""
    import torch

    if threads is not None:
        if not 1 <= threads <= MOST_THREADS:
            raise InvalidValueError(f"threads={threads}: give a whole number between 1 and {MOST_THREADS}")
        torch.set_num_threads(threads)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(len(os.sched_getaffinity(0)))


def _load(experiment: "Experiment", device: "torch.device") -> "LoadedModel":
    from zoo_exp.evaluation.sources import load_configured

    return load_configured(experiment.model, device)


def _prepare(
    experiment: "Experiment", loaded: "LoadedModel", text: int, image: tuple[int, int]
) -> Callable[[int], Callable[[], Mapping[str, Any]]]:
    """How to make the inputs of a batch: real questions through the processor, or made-up ones."""
    from zoo_exp.measure.inputs import made_up_inputs

    if loaded.processor is None or experiment.model.weights == "random":

        def made_up(batch_size: int) -> Callable[[], Mapping[str, Any]]:
            inputs = made_up_inputs(loaded.adapter, batch_size, text, image)
            return lambda: inputs

        return made_up
    from zoo_exp import tasks
    from zoo_exp.evaluation.sample_batches import Collate, Sample
    from zoo_exp.models.chat import to_device
    from zoo_exp.tasks import data

    task = tasks.get(experiment.tasks[0])
    collate = Collate(task, loaded.processor, experiment.model.prompt_family)
    device = next(loaded.model.parameters()).device

    def real(batch_size: int) -> Callable[[], Mapping[str, Any]]:
        rows = data.load(task, experiment.data.root, batch_size, fewer=True)
        samples = [Sample(n, task.sample_id(rows[n]), rows[n]) for n in range(min(batch_size, len(rows)))]
        if len(samples) < batch_size:
            raise InvalidValueError(
                f"batch={batch_size}: {task.name} has {len(samples)} questions; give fewer"
            )
        return lambda: to_device(collate(samples).inputs, device)

    return real


def _scores(experiment: "Experiment") -> tuple[dict[str, float], str]:
    """Arm -> score in the experiment's first task, from the results that its run wrote; and what the score is."""
    from zoo_exp.runs.folder import results

    rows = json.loads(results(experiment.run_dir, ".json").read_text(encoding="utf-8"))["rows"]
    mine = [row for row in rows if row["task"] == experiment.tasks[0] and row["value"] is not None]
    scores = {str(row["row"]): float(row["value"]) for row in mine}
    return scores, f"{experiment.tasks[0]}: {mine[0]['metric']}" if mine else ""
