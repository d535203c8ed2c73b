"""Run experiments end to end on a few questions, and check every batch on the way."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo_exp import pipeline, presets
from zoo_exp.config import compose
from zoo_exp.config.experiment import Experiment
from zoo_exp.console import plain_console
from zoo_exp.errors import ZooExpError
from zoo_exp.files import Row
from zoo_exp.rehearsal import made_data, slim
from zoo_exp.rehearsal.watch import CHECKS, watching
from zoo_exp.runs import reading

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
        error: what ended it, or "".
        seconds: time that it took.
    """

    name: str
    where: str
    records: tuple[int, int] = (0, 0)
    not_applicable: int = 0
    violations: dict[str, list[str]] = field(default_factory=dict)
    error: str = ""
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        """Whether every check holds."""
        complete = self.records[0] == self.records[1]
        return not self.error and complete and not any(self.violations.values())


def rehearse(names: Sequence[str], given: Sequence[str], folder: Path) -> Iterator[Outcome]:
    """Rehearse experiments one after the other.

    Args:
        names: experiments; all of `configs/exp` if empty.
        given: further overrides; `model.path` and `data.root` replace what is made here.
        folder: takes checkpoints, data and runs.
    """
    keys = {text.partition("=")[0].lstrip("+") for text in given}
    for number, name in enumerate(names or presets.names("exp")):
        plain = compose([f"+exp={name}", *(text for text in given if text.startswith("model="))])
        texts = [f"+exp={name}", *FIXED, f"out={folder / 'runs'}"]
        if plain.model.name in slim.PUBLISHED:
            if "model.path" not in keys:
                made = folder / "models" / plain.model.name
                if not made.is_dir():
                    slim.make(plain.model.name, made)
                texts += [f"model.path={made}", "model.dtype=float32"]
            if "data.root" not in keys:
                data = folder / "data"
                if not data.is_dir():
                    made_data.make(data)
                texts += ["data=folder", f"data.root={data}"]
            else:
                texts.append("data=folder")
        if "task" not in keys:  # one task each; over all experiments every task has its turn
            texts.append(f"task={plain.tasks[number % len(plain.tasks)]}")
        yield _one(name, [*texts, *given])


def _one(name: str, texts: Sequence[str]) -> Outcome:
    started = time.perf_counter()
    try:
        experiment = compose(texts)
    except ZooExpError as error:
        return Outcome(name, "", error=str(error))
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
        failure or (f"exit code {code}" if code else "" if seen.calls else "nothing was answered"),
        time.perf_counter() - started,
    )


def _records(experiment: Experiment) -> list[Row]:
    """What was recorded; nothing where the run ended before."""
    try:
        return list(reading.records(experiment.run_dir))
    except ZooExpError:
        return []


def table(outcomes: Sequence[Outcome]) -> list[str]:
    """The outcomes as lines of text: experiment by check."""
    lines = [
        f"{'experiment':<24}{'answers':>10}{'n/a':>6}  " + "".join(f"{c:<10}" for c in CHECKS) + "seconds"
    ]
    for one in outcomes:
        marks = "".join(f"{_mark(one, check):<10}" for check in CHECKS)
        answers = f"{one.records[0]}/{one.records[1]}"
        lines.append(
            f"{one.name:<24}{answers:>10}{one.not_applicable:>6}  {marks}{one.seconds:7.1f}  {one.where}"
        )
        if one.error:
            lines.append(f"    error: {one.error}")
        for check, sentences in one.violations.items():
            lines += [f"    {check}: {sentence}" for sentence in sentences[:3]]
    failed = sum(not one.passed for one in outcomes)
    lines.append(f"{len(outcomes)} experiments, {failed} failed")
    return lines


def _mark(outcome: Outcome, check: str) -> str:
    count = len(outcome.violations.get(check, ()))
    return "-" if outcome.error else f"{count} wrong" if count else "ok"
