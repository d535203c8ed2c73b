"""Run experiments end to end on a few questions, check every batch on the way, and compare ways to run them."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from zoo_exp import pipeline, presets
from zoo_exp.config import compose
from zoo_exp.config.experiment import Experiment
from zoo_exp.console import plain_console
from zoo_exp.errors import InvalidValueError, ZooExpError
from zoo_exp.files import Row
from zoo_exp.measure import cost_estimate
from zoo_exp.rehearsal import made_data, slim, ways
from zoo_exp.rehearsal.watch import watching
from zoo_exp.runs import reading
from zoo_exp.tasks import check as task_check
from zoo_exp.tasks import get as get_task

FIXED = ("logger=none", "trainer=cpu", "limit=1")


@dataclass(frozen=True)
class Outcome:
    """How one experiment went.

    Attributes:
        name: of the experiment.
        where: model and tasks.
        records: answers that were recorded, and how many there must be.
        not_applicable: of these, the ones that an arm could not give.
        violations: check -> sentences.
        ways: other way to run it -> what is wrong; "" if nothing, `-` where the way is not available.
        missing: tasks of the experiment without usable data -> why.
        cost: what the whole experiment will take, or "".
        error: what ended it, or "".
        seconds: time that it took.
    """

    name: str
    where: str
    records: tuple[int, int] = (0, 0)
    not_applicable: int = 0
    violations: dict[str, list[str]] = field(default_factory=dict)
    ways: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    cost: str = ""
    error: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        complete = self.records[0] == self.records[1]
        fine = all(wrong in ("", "-") for wrong in self.ways.values())
        return not self.error and complete and fine and not self.missing and not any(self.violations.values())


def rehearse(
    names: Sequence[str], given: Sequence[str], folder: Path, *, every_way: bool = True
) -> Iterator[Outcome]:
    """Rehearse experiments one after the other.

    Args:
        names: experiments; all of `configs/exp` if empty.
        given: further overrides; `model.path` and `data.root` replace what is made here.
        folder: takes checkpoints, data and runs.
        every_way: also run the first experiment of each model family in the other ways.
    """
    known: set[str] = set()
    for number, name in enumerate(names or presets.names("exp")):
        started = time.perf_counter()
        try:
            texts, missing = _overrides(name, number, given, folder)
            outcome = replace(_one(name, texts), missing=missing, cost=_cost(name, given))
        except ZooExpError as error:
            yield Outcome(name, "", error=str(error), seconds=time.perf_counter() - started)
            continue
        family = compose(texts).model.name.removesuffix("_13b").removesuffix("_7b")
        if every_way and family not in known and not outcome.error:
            known.add(family)
            outcome = replace(
                outcome, ways=ways.compare(_two_tasks(name, given, texts), folder / "ways" / name)
            )
        yield replace(outcome, seconds=time.perf_counter() - started)


def _overrides(
    name: str, number: int, given: Sequence[str], folder: Path
) -> tuple[list[str], dict[str, str]]:
    """What `run` is asked for, and the tasks whose data is missing.

    Raises:
        ZooExpError: paths that cannot be used.
    """
    values = {key.lstrip("+"): value for key, _, value in (text.partition("=") for text in given)}
    plain = compose([f"+exp={name}", *(text for text in given if text.startswith("model="))])
    published = plain.model.name in slim.PUBLISHED
    texts = [f"+exp={name}", *FIXED, f"out={folder / 'runs'}"]
    more = [text for text in given if not text.startswith("model.path=")]
    if "model.path" in values or published:
        path = Path(values["model.path"]).expanduser() if "model.path" in values else None
        if path is not None and (slim.has_weights(path) or not path.is_dir()):
            texts.append(f"model.path={path}")
        elif not published:
            raise InvalidValueError(
                f"model.path={path}: has no weights, and {plain.model.name} has no slim checkpoint"
            )
        else:
            made = folder / "models" / plain.model.name
            if not made.is_dir():
                slim.make(plain.model.name, made, source=path)
            texts += [f"model.path={made}", "model.dtype=float32"]
    tasks, missing = list(plain.tasks), {}
    if "data.root" in values:
        texts.append("data=folder")
        tasks, missing = _usable(tasks, Path(values["data.root"]).expanduser())
    elif published:
        data = folder / "data"
        if not data.is_dir():
            made_data.make(data)
        texts += ["data=folder", f"data.root={data}"]
    if "task" not in values:  # one task each; over all experiments every task has its turn
        texts.append(f"task={tasks[number % len(tasks)]}")
    return [*texts, *more], missing


def _usable(tasks: Sequence[str], root: Path) -> tuple[list[str], dict[str, str]]:
    """The tasks whose data can be used, and why the others' cannot.

    Raises:
        InvalidValueError: none can be used.
    """
    missing = {}
    for task in tasks:
        try:
            task_check.check(get_task(task), root)
        except ZooExpError as error:
            missing[task] = str(error)
    usable = [task for task in tasks if task not in missing]
    if not usable:
        raise InvalidValueError(f"data.root={root}: no task can be used; {next(iter(missing.values()))}")
    return usable, missing


def _two_tasks(name: str, given: Sequence[str], texts: Sequence[str]) -> list[str]:
    """Overrides with the experiment's first two tasks, so that an array has two elements; or with the given ones."""
    if any(text.startswith("task=") for text in given) or any(
        text.startswith("data.root=") for text in given
    ):
        return list(texts)
    tasks = compose([f"+exp={name}"]).tasks[:2]
    return [text for text in texts if not text.startswith("task=")] + [f"task=[{','.join(tasks)}]"]


def _cost(name: str, given: Sequence[str]) -> str:
    """What the whole experiment will take with the user's own model and data; "" for what is made here."""
    if not any(text.startswith("model.path=") for text in given):
        return ""
    plain = [text for text in given if not text.startswith(("limit=", "data.root="))]
    experiment = compose([f"+exp={name}", "limit=null", *plain])
    asked = [
        cost_estimate.Asked.whole(cell, rows)
        for cell in experiment.cells()
        if (rows := get_task(cell.task).source.rows)
    ]
    found = cost_estimate.of_experiment(experiment, asked)
    return "" if found is None else f"{sum(one.questions for one in asked)} questions; {found.lines()[0]}"


def _one(name: str, texts: Sequence[str]) -> Outcome:
    experiment = compose(texts)
    where = f"{experiment.model.name}: {', '.join(experiment.tasks)}"
    failure, code = "", 0
    with watching(published_prompts=experiment.model.name in slim.PUBLISHED) as seen:
        try:
            code = pipeline.run(experiment, plain_console(quiet=True))
        except ZooExpError as problem:
            failure = str(problem)
    rows = _records(experiment)
    questions = len({(row["task"], row["sample_id"]) for row in rows})
    return Outcome(
        name,
        where,
        (len(rows), questions * len(experiment.arms)),
        sum(row.get("not_applicable") is not None for row in rows),
        seen.violations,
        error=failure or (f"exit code {code}" if code else "" if seen.calls else "nothing was answered"),
    )


def _records(experiment: Experiment) -> list[Row]:
    """What was recorded; nothing where the run ended before."""
    try:
        return list(reading.records(experiment.run_dir))
    except ZooExpError:
        return []
