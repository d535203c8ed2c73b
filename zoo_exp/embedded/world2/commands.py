"""`python -m zoo_exp embedded train model=NAME`: train a model of world 2, or resume its training."""

import time
from dataclasses import fields
from pathlib import Path
from typing import Any

from zoo_exp.embedded.world2.plan import Plan, plan_for
from zoo_exp.errors import InvalidValueError, UnknownNameError

_OWN_KEYS = ("model", "out", "start", "decoder", "device", "threads", "rows", "export")


def parse_overrides(overrides: list[str]) -> tuple[Plan, dict[str, str]]:
    """The plan that `key=value` arguments ask for, and the other settings.

    Raises:
        InvalidValueError: not key=value, a value that is no number, or a number that cannot be.
        UnknownNameError: no such key or model.
    """
    numbers = {field.name: field.type for field in fields(Plan) if field.name != "model"}
    settings: dict[str, str] = {}
    changes: dict[str, int | float] = {}
    for text in overrides:
        key, equals, value = text.partition("=")
        if not equals or not value:
            raise InvalidValueError(f"'{text}' is not key=value (example: model=embedded_next)")
        if key in _OWN_KEYS:
            settings[key] = value
        elif key in numbers:
            kind = float if numbers[key] in (float, "float") else int
            try:
                changes[key] = kind(value)
            except ValueError as error:
                raise InvalidValueError(
                    f"{text}: {key} takes a{'n integer' if kind is int else ' number'}"
                ) from error
        else:
            raise UnknownNameError("setting of embedded train", key, (*_OWN_KEYS, *numbers))
    name = settings.get("model", "embedded")
    for key in ("threads", "rows"):
        if not settings.get(key, "1").isdigit() or int(settings.get(key, "1")) < 1:
            raise InvalidValueError(f"{key}={settings[key]}: give a whole number from 1 on")
    return plan_for(name, **changes), settings


def train(overrides: list[str], qwen_class: Any) -> int:
    """Train to the end of the plan, save the weights, and report accuracy per family with 95 % intervals.

    Args:
        overrides: `key=value` arguments; `export=FOLDER` saves the weights of the last checkpoint and stops.
        qwen_class: Qwen's processor class.
    """
    plan, settings = parse_overrides(overrides)

    import torch
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from zoo_exp.console import plain_console
    from zoo_exp.embedded.world2.front import learn_places
    from zoo_exp.embedded.world2.train import make_learner, processor_for, report, save_model
    from zoo_exp.embedded.world2.trainer import Training

    torch.set_num_threads(int(settings.get("threads", "1")))
    out = Path(settings.get("out", f"runs/{plan.model}"))
    device = _device(settings.get("device", "cpu"))
    console = plain_console()
    processor = processor_for(plan.model, qwen_class)
    learner = make_learner(plan, settings.get("start"), settings.get("decoder")).to(device)

    def keep_shallow(shallow: Any) -> None:
        save_model(shallow, out / "shallow", processor, torch.float32)

    training = Training(learner, out, keep_shallow)
    if "export" in settings:
        folder = Path(settings["export"])
        save_model(training.averaged(), folder, processor)
        console.print(f"{out}: averaged weights of step {training.step} of {plan.steps} in {folder}")
        return 0
    if training.step:
        console.print(f"{out}: resumed at step {training.step} of {plan.steps}")
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[state]}", markup=False),
    )
    started = time.time()
    if plan.front_steps and plan.front_layers and learner.codes is not None and not training.step:
        with Progress(*columns, console=console) as progress:
            bar = progress.add_task("places", total=plan.front_steps, state="")
            far = learn_places(learner, lambda done: progress.update(bar, completed=done))
        console.print(
            f"layers in front: distance {far:.3f} to the places that the decoder reads (1: knows none)"
        )
    with Progress(*columns, console=console) as progress:
        bar = progress.add_task(plan.model, total=plan.steps, completed=training.step, state="")

        def advance(step: int, line: dict[str, float]) -> None:
            progress.update(bar, completed=step)
            if line:
                shown = {key: line[key] for key in ("loss", "kind", "average") if key in line}
                progress.update(bar, state=" ".join(f"{key} {value:.3f}" for key, value in shown.items()))

        training.run(advance)
    weights, trained = out / "weights", training.averaged()
    save_model(trained, weights, processor)
    console.print(f"trained for {(time.time() - started) / 60:.0f} min in this run; weights: {weights}")
    rows = int(settings.get("rows", "500"))
    with Progress(*columns, console=console, transient=True) as progress:
        bar = progress.add_task("held-out questions", total=9 * rows, state="")
        result = report(trained, out / "accuracy.json", rows, lambda done: progress.advance(bar, done))
    console.print(accuracy_table(result))
    return 0


def _device(name: str) -> Any:
    import torch

    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        line = str(error).splitlines()[0]
        raise InvalidValueError(f"device={name} cannot be used ({line}): give cpu or cuda") from error
    return device


def accuracy_table(result: dict[str, Any]) -> Any:
    """Accuracy per family and arm with 95 % Wilson intervals, as a rich table."""
    from rich.table import Table
    from scipy.stats import binomtest

    table = Table("family", "questions", *result)
    first = next(iter(result.values()))
    for family in (name for name in first if name != "average"):
        cells = []
        for arm in result.values():
            share, n = arm[family]["right"], arm[family]["n"]
            interval = binomtest(round(share * n), n).proportion_ci(method="wilson")
            cells.append(f"{100 * share:.1f} [{100 * interval.low:.1f}, {100 * interval.high:.1f}]")
        table.add_row(family, str(first[family]["n"]), *cells)
    total = sum(first[family]["n"] for family in first if family != "average")
    averages = [f"{100 * arm['average']:.1f}" for arm in result.values()]
    table.add_row("average", str(total), *averages, style="bold")
    return table
