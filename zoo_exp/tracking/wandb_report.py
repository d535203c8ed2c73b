"""A W&B Report on runs: saved where W&B is online, its specification in a file elsewhere."""

import json
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from zoo_exp.errors import MissingFileError
from zoo_exp.files import write_text
from zoo_exp.report.headline import headline
from zoo_exp.report.renderers import escape_markdown, markdown
from zoo_exp.report.runs import results_of
from zoo_exp.report.tables import main_table
from zoo_exp.runs.load import Run, find_runs, load_run
from zoo_exp.statistics.frame import AVERAGE
from zoo_exp.statistics.results import Results
from zoo_exp.tracking.content import plain_key
from zoo_exp.tracking.mode import resolve_mode

SPECIFICATION = "wandb_report.json"
NOBODY = "offline"  # a specification needs some entity; saving puts the real one in its place


def make_report(paths: Sequence[Path], out: Path) -> str:
    """Build the report and save it, or write its specification into `out`.

    Whether W&B is online is decided as for runs: WANDB_MODE, the runs' configuration, an API key.

    Args:
        paths: run folders, or folders above them.
        out: folder of the offline specification.

    Returns:
        One line for the user.

    Raises:
        MissingFileError: the package `wandb-workspaces` is not installed, or W&B refused the report.
        ZooExpError: as `runs.load_run`.
    """
    library = _library()
    runs = [load_run(folder) for folder in find_runs(paths)]
    logger = dict(runs[0].experiment.get("logger") or {})
    mode = resolve_mode(str(logger.get("mode") or "auto"))
    project = str(logger.get("project") or "zoo_exp")
    if mode.name == "disabled":
        return f"W&B report: disabled ({mode.reason})."
    if mode.name == "online":
        return f"W&B report: {_save(library, runs, project, logger.get('entity'))}"
    report = build(library, runs, project, NOBODY, linked=False)
    path = out / SPECIFICATION
    text = report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True)
    write_text(path, json.dumps(json.loads(text), indent=1, ensure_ascii=False) + "\n")
    return f"W&B report: offline ({mode.reason}); specification in {path}. Online: WANDB_MODE=online and an API key"


def build(library: ModuleType, runs: Sequence[Run], project: str, entity: str, *, linked: bool) -> Any:
    """The report: per run its table, then panels over the runs that W&B has of it.

    Args:
        library: `wandb_workspaces.reports.v2`.
        runs: from `runs.load_run`.
        project: W&B project.
        entity: W&B user or team.
        linked: whether the panels name the project; W&B then looks it up, which needs the network.
    """
    title = f"zoo_exp: {runs[0].name}" if len(runs) == 1 else f"zoo_exp: {len(runs)} experiments"
    blocks: list[Any] = [library.TableOfContents()]
    for run in runs:
        results = results_of(run)
        question = escape_markdown(run.experiment.get("question") or "")
        found = headline(results)
        sentences = escape_markdown(" ".join(found.sentences())) if found else ""
        table = f"{sentences}\n\n{markdown(main_table(results), heading='')}"
        place = {"entity": entity, "project": project} if linked else {}
        runset = library.Runset(name=run.name, query=run.name, **place)
        blocks += [
            library.H1(run.name),
            library.MarkdownBlock(question),
            library.MarkdownBlock(table),
            library.PanelGrid(runsets=[runset], panels=_panels(library, results)),
        ]
    description = "Retained averages with 95 % intervals; the records they come from lie in the run folders."
    return library.Report(project=project, entity=entity, title=title, description=description, blocks=blocks)


def _panels(library: ModuleType, results: Results) -> list[Any]:
    arms = [str(arm) for arm in results.frame.loc[results.frame["task"] == AVERAGE, "arm"]]
    panels = [
        library.BarPlot(title=title, metrics=[f"{key}/{plain_key(arm)}" for arm in arms])
        for key, title in (
            ("retained", "Retained average, %"),
            ("kept_tokens", "Visual tokens kept"),
            ("prefill_decode_ms", "Prefill and decode, ms a question"),
            ("select_ms", "Selector, ms a question"),
        )
    ]
    return [*panels, library.MediaBrowser(title="Kept tokens", media_keys=["gallery"])]


def _save(library: ModuleType, runs: Sequence[Run], project: str, entity: Any) -> str:
    import requests
    import wandb

    try:
        owner = str(entity or wandb.Api().default_entity)
        report = build(library, runs, project, owner, linked=True)
        report.save()
        return str(report.url)
    except (wandb.errors.Error, requests.RequestException, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise MissingFileError(
            f"W&B did not take the report: {reason}. Without W&B: WANDB_MODE=offline writes it to a file"
        ) from error


def _library() -> ModuleType:
    try:
        import wandb_workspaces.reports.v2 as library
    except ImportError as error:
        raise MissingFileError(
            "W&B reports need the package wandb-workspaces: python -m pip install 'wandb-workspaces>=0.4.13,<0.5' "
            "(the HTML report is written without it)"
        ) from error
    module: ModuleType = library
    return module
