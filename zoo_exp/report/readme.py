"""Tables of a README, written from the files of results beside it: marked blocks, which a command fills again.

A block stands between two comments, which a page does not show:

    <!-- table: results.csv columns=arm,kept,retained budget=16,8 -->
    ...
    <!-- end of table -->

The file's name decides the kind of the table (`KINDS`). Options:

    columns=A,B   columns of a table of results (`RESULT_COLUMNS`), or of any other csv file, in this order
    budget=A,B    rows of these budgets, and those without one
    arms=A;B      rows whose arm contains one of these texts
    by=task       one row per task; its columns are the arms
    digits=N      significant digits (default 3), for files of other kinds
    confirm=FILE  claims on other scenes, beside those of the file
"""

import csv
import json
import math
import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError
from zoo_exp.files import write_text
from zoo_exp.report.readme_findings import accuracy_lines, claim_findings, origin
from zoo_exp.report.renderers import markdown
from zoo_exp.report.tables import build_equal_flops, flops_column, kept, short_name
from zoo_exp.report.tabular import (
    DASH,
    Column,
    Line,
    Table,
    build,
    interval,
    known,
    text,
    value,
    with_interval,
)
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.tasks import get as get_task

BLOCK = re.compile(
    r"^(<!-- table: (?P<spec>[^\n]*?) -->\n)(?P<body>.*?)(<!-- end of table -->)", re.DOTALL | re.MULTILINE
)
OPEN = re.compile(r"^<!-- table: ", re.MULTILINE)
NOT_YET = "Not answered yet: `python experiments/reproduce.py {name}`."
NO_ROWS = "None in this run."
OPTIONS = ("columns", "budget", "arms", "by", "digits", "confirm")
RESULT_COLUMNS = (
    *("arm", "kept", "tasks", "retained", "score", "seed_sd"),
    *("select", "generate", "flops", "prefill", "selector"),
)
DEFAULT = ("arm", "kept", "retained", "score", "select", "flops", "prefill", "selector")


def fill_file(readme: Path) -> bool:
    """Fill the blocks of a README from the files beside it; whether the text has changed.

    Raises:
        ZooExpError: see `fill`.
    """
    if not readme.is_file():
        raise MissingFileError(f"{readme}: no such file; give a folder with a README.md")
    before = readme.read_text(encoding="utf-8")
    after = fill(before, readme.parent)
    if after != before:
        write_text(readme, after)
    return after != before


def fill(document: str, folder: Path) -> str:
    """The text with every block written anew.

    Args:
        document: Markdown.
        folder: where the files of results are.

    Raises:
        InvalidValueError: a block without end, or with an option that is not key=value.
        UnknownNameError: an unknown option or column.
        MissingFileError: a file of results that cannot be read.
    """
    if len(OPEN.findall(document)) != len(BLOCK.findall(document)):
        raise InvalidValueError(
            f"{folder}/README.md: a table has no end: write <!-- end of table --> on a line below it"
        )
    return BLOCK.sub(lambda found: f"{found[1]}{_body(found['spec'], folder)}\n{found[4]}", document)


def outside(document: str) -> str:
    """The text without its blocks."""
    return BLOCK.sub("", document)


def _body(spec: str, folder: Path) -> str:
    name, *rest = shlex.split(spec)
    options: dict[str, str] = {}
    for option in rest:
        key, equals, given = option.partition("=")
        if not equals:
            raise InvalidValueError(f"table: {spec}: '{option}' is not key=value")
        if key not in OPTIONS:
            raise UnknownNameError("option of a table", key, OPTIONS)
        options[key] = given
    path = folder / name
    if not path.is_file():
        return NOT_YET.format(name=path.parent.resolve().name)
    made = _kind(name)(path, options)
    if isinstance(made, str):
        return made
    return markdown(made, heading="") if made.rows else NO_ROWS


def _kind(name: str) -> "Callable[[Path, Mapping[str, str]], Table | str]":
    plain = Path(name).name
    found = next((make for start, make in KINDS.items() if plain.startswith(start)), None)
    return found or _any_csv


def read_csv(path: Path) -> list[dict[str, Any]]:
    """Rows of a csv file: numbers as floats, `True` and `False` as truth values, empty cells as nan."""
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise MissingFileError(f"{path}: it cannot be read ({error})") from error
    return [{key: _plain(key, cell) for key, cell in row.items()} for row in rows]


def _plain(key: str, cell: str | None) -> Any:
    if not cell:
        return math.nan
    if key == "budget":  # a name, also where it looks like a number
        return cell
    if cell in ("True", "False"):
        return cell == "True"
    try:
        return float(cell)
    except ValueError:
        return cell.removeprefix("'")  # which keeps a spreadsheet from taking text for a formula


def _results(path: Path, options: Mapping[str, str]) -> Table:
    rows = [line for line in read_csv(path) if _chosen(line, options)]
    if options.get("by") == "task":
        return _by_task(rows)
    averages = [line for line in rows if line["task"] == AVERAGE]
    tasks = {str(line["task"]): None for line in rows if line["task"] != AVERAGE}
    scores = {(line["arm"], line["task"]): line for line in rows}
    lines: list[dict[str, Any]] = [
        {"layer_tokens": math.nan, "seed_sd": math.nan, **line} for line in averages
    ]
    columns: list[Column] = []
    for name in options.get("columns", ",".join(DEFAULT)).split(","):
        if name not in RESULT_COLUMNS:
            raise UnknownNameError("column of a table of results", name, RESULT_COLUMNS)
        columns += (
            [Column(short_name(task), _score(task, scores)) for task in tasks]
            if name == "tasks"
            else [_result_column(name, lines)]
        )
    return build("results", "Results", columns, lines, group="budget")


def _chosen(line: Line, options: Mapping[str, str]) -> bool:
    budgets = options["budget"].split(",") if "budget" in options else None
    parts = options["arms"].split(";") if "arms" in options else None
    in_budget = budgets is None or not known(line["budget"]) or line["budget"] in budgets
    return in_budget and (parts is None or any(part in str(line["arm"]) for part in parts))


def _result_column(name: str, lines: list[dict[str, Any]]) -> Column:
    columns = {
        "arm": Column("Arm", text("arm"), left=True),
        "kept": Column("kept", kept),
        "retained": Column(
            "Avg. retained", interval("retained", "retained_low", "retained_high", bold="best"), unit="%"
        ),
        "score": Column("mean score", value("value", scale=100), unit="%"),
        "seed_sd": Column("seed sd", value("seed_sd", 2)),
        "select": Column("select", value("select_ms", 2), unit="ms"),
        "generate": Column("generate", value("prefill_decode_ms", 2), unit="ms"),
        "flops": flops_column(lines, "flops_tflop"),
        "prefill": flops_column(lines, "prefill_tflop", "prefill"),
        "selector": flops_column(lines, "selector_tflop", "selector"),
    }
    return columns[name]


def _score(task: str, scores: Mapping[Any, Line]) -> Callable[[Line], Any]:
    cell = value("value", scale=get_task(task).scale.factor)
    return lambda line: cell(scores.get((line["arm"], task), {"value": math.nan}))


def _by_task(rows: list[dict[str, Any]]) -> Table:
    arms = dict.fromkeys(str(line["arm"]) for line in rows)
    lines: dict[str, dict[str, Any]] = {}
    for line in rows:
        average = line["task"] == AVERAGE
        name = "mean score" if average else f"{short_name(line['task'])} ({line['metric']})"
        scale = 100.0 if average else get_task(line["task"]).scale.factor
        numbers = [scale * float(line[key]) for key in ("value", "low", "high")]
        lines.setdefault(name, {"task": name, "n": line["n"]})[str(line["arm"])] = with_interval(*numbers)
    columns = [Column("family", text("task"), left=True), Column("questions", value("n", 0))]
    columns += [Column(arm, lambda line, arm=arm: line.get(arm, DASH)) for arm in arms]
    return build("families", "Families", columns, list(lines.values()))


def _claims(path: Path, options: Mapping[str, str]) -> str:
    other = path.with_name(options["confirm"]) if "confirm" in options else None
    confirm = read_csv(other) if other is not None and other.is_file() else []
    table, findings = claim_findings(read_csv(path), confirm)
    return f"{findings}\n\n{markdown(table, heading='')}"


def _equal_flops(path: Path, options: Mapping[str, str]) -> Table:
    lines = [line for line in read_csv(path) if _chosen_pair(line, options)]
    return replace(build_equal_flops(lines), caption="")


def _chosen_pair(line: Line, options: Mapping[str, str]) -> bool:
    parts = options["arms"].split(";") if "arms" in options else [""]
    return any(part in str(line["arm"]) for part in parts)


def _accuracy(path: Path, options: Mapping[str, str]) -> Table:
    header, lines = accuracy_lines(_json(path))
    columns = [Column("family", text("family"), left=True), Column("questions", value("n", 0))]
    columns += [Column(arm, text(arm)) for arm in header]
    return build("accuracy", "Accuracy", columns, lines)


def _selectors(path: Path, options: Mapping[str, str]) -> Table:
    """Right answers and coverage of things by arm, from benchmarks/embedded_world2.py."""
    found = _json(path)
    lines = [
        {"arm": arm, "average": shares["average"], "coverage": found["coverage"].get(arm, math.nan)}
        for arm, shares in found["accuracy"].items()
    ]
    columns = [
        Column("arm", text("arm"), left=True),
        Column("right answers", value("average", scale=100), unit="%"),
        Column("things with a kept token", value("coverage", scale=100), unit="%"),
    ]
    return build("selectors", "Selectors", columns, lines)


def _origin(path: Path, options: Mapping[str, str]) -> str:
    return origin(_json(path))


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise MissingFileError(f"{path}: it cannot be read ({error})") from error
    if not isinstance(found, dict):
        raise MissingFileError(f"{path}: it holds no object")
    return found


def _any_csv(path: Path, options: Mapping[str, str]) -> Table:
    lines = _rows_of_json(path) if path.suffix == ".json" else read_csv(path)
    there = list(dict.fromkeys(key for line in lines for key in line))
    digits = int(options.get("digits", 3))
    chosen = options["columns"].split(",") if "columns" in options else there
    columns = []
    for entry in chosen:
        name, _, header = entry.partition(":")
        if name not in there:
            raise UnknownNameError(f"column of {path.name}", name, there)
        numbers = all(isinstance(line.get(name, 0.0), float) for line in lines)
        columns.append(Column(header or name, _cell(name, digits), left=not numbers))
    parts = options["arms"].split(";") if "arms" in options else [""]
    shown = [line for line in lines if any(part in str(next(iter(line.values()))) for part in parts)]
    return build(path.stem, path.stem, columns, shown)


def _rows_of_json(path: Path) -> list[dict[str, Any]]:
    """The `rows` of a JSON file."""
    rows = _json(path).get("rows")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidValueError(f"{path}: a table is made of its `rows`, a list of objects; it has none")
    return [
        {key: float(cell) if type(cell) in (int, float) else cell for key, cell in row.items()}
        for row in rows
    ]


def _cell(name: str, digits: int) -> Callable[[Line], Any]:
    def cell(line: Line) -> str:
        found = line.get(name, math.nan)
        if not isinstance(found, float):
            return str(found)
        if not known(found):
            return DASH
        return f"{found:.0f}" if found.is_integer() or abs(found) >= 1000 else f"{found:.{digits}g}"

    return cell


KINDS: dict[str, Callable[[Path, Mapping[str, str]], Table | str]] = {
    "results": _results,
    "confirm": _results,
    "claims": _claims,
    "equal_flops": _equal_flops,
    "accuracy": _accuracy,
    "selectors": _selectors,
    "run.json": _origin,
}
"""Start of a file's name -> how it is drawn; any other csv file is drawn as it is."""
