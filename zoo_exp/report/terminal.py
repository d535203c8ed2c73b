"""The table that a run prints."""

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from zoo_exp.report import published_table
from zoo_exp.report.published import CAPTION
from zoo_exp.report.tables import (
    display_scale,
    kept_count,
    method_lines,
    number,
    operations,
    unique_short_names,
    with_interval,
)
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.statistics.results import Results


def build(results: Results, per_task: bool = True) -> Table:
    """Arm, kept, one column per task, retained average with interval, selector's ms, operations."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    table.add_column("Arm", no_wrap=True, overflow="ellipsis")
    table.add_column("kept", justify="right", no_wrap=True)
    tasks = results.tasks if per_task else []
    heads = unique_short_names(results.tasks)
    for task in tasks:
        table.add_column(Text(heads[task]), justify="right", no_wrap=True)
    table.add_column("Avg. retained %", justify="right", no_wrap=True)
    table.add_column("select ms", justify="right", no_wrap=True)
    costs = operations(results)
    if costs is not None:
        table.add_column(costs[0], justify="right", no_wrap=True)
    budget: object = None
    for position, (arm, lines) in enumerate(results.lines.items()):
        average = lines[AVERAGE]
        if position and average["budget"] != budget:
            table.add_section()
        budget = average["budget"]
        share = with_interval(average["retained"], average["retained_low"], average["retained_high"])
        table.add_row(
            Text(" ".join(str(arm).split())),
            kept_count(average),
            *(_cell(number(lines[t]["value"] * display_scale(results, t)), lines[t]["best"]) for t in tasks),
            _cell(share, average["best"]),
            number(average["select_ms"], 2),
            *([] if costs is None else [costs[1][str(arm)]]),
        )
    return table


def show(results: Results, console: Console) -> None:
    """Print the table and how it was computed; where the console is too narrow, averages only."""
    console.print()
    console.print(Text(results.experiment, style="bold"))
    table = build(results)
    narrow = _natural_width(table, console) > console.width
    console.print(build(results, per_task=False) if narrow else table)
    if narrow:
        console.print(Text("The console is too narrow for a column per task: see results.md.", style="dim"))
    for line in method_lines(results):
        console.print(Text(line, style="yellow" if line.startswith("Note:") else "dim"))
    if len(results.published):
        console.print()
        console.print(Text(published_table.TITLE, style="bold"))
        console.print(_published(results))
        console.print(Text(CAPTION, style="dim"))


def _published(results: Results) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0), show_edge=False)
    for place, head in enumerate(published_table.HEADS):
        table.add_column(head, justify="left" if place < published_table.LEFT else "right")
    for line in published_table.lines(results):
        styled = line._asdict() | {"arm": " ".join(line.arm.split())}
        table.add_row(*(Text(v, style="italic" if k == "published" else "") for k, v in styled.items()))
    return table


def _natural_width(table: Table, console: Console) -> int:
    return int(table.__rich_measure__(console, console.options.update(width=10_000)).maximum)


def _cell(text: str, bold: object) -> Text:
    return Text(text, style="bold" if bold else "")
