"""Score a file of responses without a model: metrics, 95 % intervals, scores per sample.

PREDICTIONS.jsonl has one line per response: {"doc": {...}, "response": "..."}. `doc` is the row of the
benchmark with the columns that its scoring reads; a row without an id is identified by its line number.
The intervals are those that `run` and `report` show for the same responses.

Examples:
  python -m zoo_exp score pope answers.jsonl
  python -m zoo_exp score mme answers.jsonl --json
  python -m zoo_exp score textvqa_val answers.jsonl --per-sample scores.jsonl --submission submission
"""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from zoo_exp.errors import InvalidValueError
from zoo_exp.wording import counted

if TYPE_CHECKING:
    from collections.abc import Mapping

    from zoo_exp.statistics.intervals import Interval
    from zoo_exp.tasks.scorefile import ScoredFile


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Task, file, and what to write."""
    parser.add_argument("task", metavar="TASK", help="the benchmark (python -m zoo_exp list tasks)")
    parser.add_argument("predictions", metavar="PREDICTIONS.jsonl", type=Path, help="the responses")
    parser.add_argument(
        "--json", action="store_true", help='print {"task": ..., "n": ..., "metrics": {...}} and nothing else'
    )
    parser.add_argument(
        "--per-sample", metavar="OUT.jsonl", type=Path, help="write one line per response: id and score parts"
    )
    parser.add_argument(
        "--submission", metavar="DIR", type=Path, help="write the submission file for the benchmark's server"
    )
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    parser.set_defaults(handler=score)


def score(args: argparse.Namespace) -> int:
    """Score the file, print the metrics, and write the requested files."""
    from zoo_exp import tasks
    from zoo_exp.tasks.scorefile import score_file, write_per_sample
    from zoo_exp.tasks.submission_files import check_has_server, write_submission

    task = tasks.given(args.task)
    if args.submission is not None:
        check_has_server(task)
    _check_output(args.per_sample, args.predictions)
    scored = score_file(task, args.predictions)
    if args.per_sample is not None:
        write_per_sample(args.per_sample, scored)
    if args.submission is not None:
        path = write_submission(task, scored.rows, args.submission, task.name)
        if not args.json:
            print(f"submission file: {path}")
    if args.json:
        print(scored.to_json())
        return 0
    from zoo_exp.statistics.tallies import metric_intervals

    if task.submission_only:
        written = "" if args.submission else f": --submission DIR writes the file for {task.name}'s server"
        print(
            f"{task.name}: {counted(len(scored.rows), 'response')}; its reference answers are not public{written}"
        )
        return 0
    print("\n".join(report(scored, str(task.scale), metric_intervals(task, scored.rows))))
    return 0


def report(scored: "ScoredFile", scale: str, intervals: "Mapping[str, Interval]") -> list[str]:
    """The printed lines: metrics with their intervals, then metrics of groups of rows."""
    from zoo_exp.console import aligned, columns

    spread = {name: f"{_text(one.low)} to {_text(one.high)}" for name, one in intervals.items()}
    head = ("metric", "value", "95 % interval" if spread else "")
    lacking = f" ({scored.unreadable} without {scored.answer_form})" if scored.unreadable else ""
    lines = [f"{scored.task}: {counted(len(scored.rows), 'response')}{lacking}, scale {scale}"]
    width = columns(120)
    lines += aligned(
        [head, *((name, _text(value), spread.get(name, "")) for name, value in scored.metrics.items())], width
    )
    if scored.breakdown:
        names = list(next(iter(scored.breakdown.values())))
        rows = [(group, *map(_text, values.values())) for group, values in scored.breakdown.items()]
        lines += ["", *aligned([("group", *names), *rows], width)]
    return lines


def _text(value: float) -> str:
    return f"{value:.0f}" if float(value).is_integer() and abs(value) > 1 else f"{value:.4f}"


def _check_output(out: Path | None, predictions: Path) -> None:
    if out is None:
        return
    if out.is_dir():
        raise InvalidValueError(
            f"--per-sample {out} is a folder: give a file name, such as {out / 'scores.jsonl'}"
        )
    if out.exists() and predictions.exists() and out.samefile(predictions):
        raise InvalidValueError(f"--per-sample {out} would overwrite the predictions: give another file")
