"""Answer the experiments again on the embedded models, and write their READMEs.

    python experiments/reproduce.py                       every experiment, one after another
    python experiments/reproduce.py table1_llava15_7b     some of them
    python experiments/reproduce.py --list                the commands
    python experiments/reproduce.py --tables              only the tables of the READMEs, from the files beside them

The command of an experiment is the first line of its file in configs/exp. An interrupted run is resumed by the same
command. An experiment with claims is answered a second time on scenes that no other study uses (`split=confirm`),
with the arms that its claims name; what another experiment has answered there is taken from it. Each folder gets the
results as csv, the figures that its README shows, and run.json with date, commit and processor time.
"""

import argparse
import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
ORDER = (
    "embedded",
    *("ablation_fusion", "table3_llava_next_7b", "qwen25_vl_7b", "table1_llava15_7b", "table2_llava15_13b"),
    *(
        "encoder_proxy",
        "proxy_correlation",
        "estimators",
        "variants",
        "low_rank",
        "sanity",
        "hyperparameters",
    ),
    *("qualitative", "efficiency", "embedded_nine"),
)
TOKENS = ("encoder_proxy", "proxy_correlation", "estimators", "variants", "low_rank")
"""Studies of token scores: `tokens` runs, too."""
ESTIMATORS = [
    {"claim": "estimator", "arm": f"zoo {one}multiply", "against": f"zoo {other}multiply"}
    for one, other in (("diagonal ", "closed_form "), ("diagonal ", ""), ("closed_form ", ""))
]
"""Estimators of one sensitivity, compared in pairs where an experiment has them: estimators.csv."""
CONFIRM = "confirm"
COST = "processor_seconds.json"
FIXED = ("logger=none", "trainer=cpu")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen experiments; the exit code of the first that stops."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").partition("\n")[0],
        epilog=(__doc__ or "").partition("\n")[2],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("experiments", nargs="*", metavar="EXPERIMENT", help="names (default: all)")
    parser.add_argument("--list", action="store_true", help="print the commands and exit")
    parser.add_argument("--tables", action="store_true", help="only fill the READMEs' tables")
    parser.add_argument("--out", default="runs/reproduce", metavar="DIR", help="parent of the run folders")
    parser.add_argument("--into", type=Path, default=HERE, metavar="DIR", help="folders of the experiments")
    parser.add_argument(
        "--limit", type=int, metavar="N", help="units of each task (default: the experiment's)"
    )
    args = parser.parse_args(arguments)
    from zoo_exp.errors import UnknownNameError, ending

    try:
        for name in args.experiments:
            if name not in ORDER:
                raise UnknownNameError("experiment", name, ORDER)
        return _run(args.experiments or ORDER, args)
    except Exception as error:
        line, code = ending(error, debug=False)
        print(line, file=sys.stderr)
        return code


def _run(names: Sequence[str], args: argparse.Namespace) -> int:
    from zoo_exp.report.readme import fill_file

    for name in names:
        if args.list:
            print(command(name))
            continue
        if name == "embedded" and not args.tables:
            measure(args.into / name, args.limit or 500)
        elif not args.tables:
            code = answer(name, args.out, args.into / name, args.limit)
            if code:
                return code
        fill_file(args.into / name / "README.md")
    if not args.list:
        fill_file(args.into / "embedded" / "README.md")
        advice = ROOT / "benchmarks" / "advice.py"
        if args.into == HERE and "embedded_nine" in names and not args.tables:
            subprocess.run([sys.executable, str(advice), "--write"], check=True)
    return 0


def command(name: str) -> str:
    """The first line of an experiment's file: the command that answers it."""
    if name == "embedded":
        return "python experiments/reproduce.py embedded"
    first = (ROOT / "configs" / "exp" / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    return first.removeprefix("# ")


def measure(folder: Path, rows: int) -> None:
    """Accuracy of the shipped models by family: with all visual tokens, with none, and with a random few."""
    from zoo_exp.embedded.shipped import FOLDERS, ROOM
    from zoo_exp.embedded.world2.learners import LlavaLearner
    from zoo_exp.embedded.world2.plan import PLANS, plan_for
    from zoo_exp.embedded.world2.qwen import QwenLearner
    from zoo_exp.embedded.world2.tiles import NextLearner
    from zoo_exp.embedded.world2.train import report
    from zoo_exp.models.loading import load_model

    learners = {"embedded": LlavaLearner, "embedded_next": NextLearner, "embedded_qwen": QwenLearner}
    for name in PLANS:
        if not (ROOM / FOLDERS[name] / "model.safetensors").is_file():
            print(f"== {name}: no weights", flush=True)
            continue
        started = time.process_time()
        learner = learners[name](plan_for(name), load_model(name, dtype="float32").model)
        found = report(learner, folder / f"accuracy_{name}.json", rows)
        averages = ", ".join(f"{arm} {100 * shares['average']:.1f}" for arm, shares in found.items())
        print(f"== {name}: {averages}; {time.process_time() - started:.0f} s of processor time", flush=True)


def answer(name: str, out: str, folder: Path, limit: int | None) -> int:
    """Answer one experiment on both splits, and write its folder; the exit code."""
    from zoo_exp import pipeline
    from zoo_exp.config import compose
    from zoo_exp.console import plain_console

    words = command(name).split()[4:]
    more = [*FIXED, f"out={out}", *([f"limit={limit}"] if limit else [])]
    experiment = compose([*words, *more])
    runs = {"test": experiment}
    if experiment.claims:
        other = compose(
            [*(word for word in words if not word.startswith("split=")), f"split={CONFIRM}", *more]
        )
        rows = {row for claim in other.claims for row in (claim.arm, claim.against)} | {"full"}
        arms = tuple(arm for arm in other.arms if arm.row.removesuffix(f" @{arm.budget}") in rows)
        # Under one name, experiments take the answers that they have in common from each other.
        runs[CONFIRM] = replace(other, name=CONFIRM, arms=arms)
    for split, run in runs.items():
        print(
            f"== {name}, {split}: {len(run.arms)} arms, {len(run.tasks)} tasks, limit {run.limit}", flush=True
        )
        started = time.process_time()
        code = pipeline.run(run, plain_console(quiet=True))
        if code == 0 and name in TOKENS and split == "test":
            _tokens(run)
        spent = _spent(run.run_dir, time.process_time() - started)
        print(f"   {spent:.0f} s of processor time; {run.run_dir}", flush=True)
        if code:
            return code
    _write(name, folder, runs)
    return 0


def _tokens(run: Any) -> None:
    """Rank correlations of the token scores, unless they are there."""
    from zoo_exp.console import plain_console
    from zoo_exp.evaluation.token_analysis import inspect
    from zoo_exp.runs import folder

    if not folder.tokens(run.run_dir).is_file():
        inspect(run, plain_console(quiet=True), 20 if run.model.family == "llava_next" else 50)


def _spent(run_dir: Path, seconds: float) -> float:
    """Processor time of a run over all attempts, which a file in its folder adds up."""
    from zoo_exp.files import write_text

    file = run_dir / COST
    before = json.loads(file.read_text()) if file.is_file() else 0.0
    # Showing a finished run again costs a few seconds, which are not its cost.
    total = float(before) if before and seconds < 0.2 * before else before + seconds
    write_text(file, json.dumps(round(total, 1)))
    return float(total)


def _write(name: str, folder: Path, runs: dict[str, Any]) -> None:
    """The results of an experiment as files beside its README."""
    from zoo_exp.embedded.shipped import is_shipped, weights_digest
    from zoo_exp.report.token_rows import averages, read_tokens
    from zoo_exp.runs import folder as run_folder
    from zoo_exp.runs.provenance import git_commit
    from zoo_exp.statistics import equal_flops

    folder.mkdir(exist_ok=True)
    documents = {
        key: json.loads(run_folder.results(run.run_dir, ".json").read_text()) for key, run in runs.items()
    }
    for split, run in runs.items():
        own = split == "test"
        shutil.copy(
            run_folder.results(run.run_dir, ".csv"), folder / ("results.csv" if own else "confirm.csv")
        )
        _csv(documents[split]["claims"], folder / ("claims.csv" if own else "claims_confirm.csv"))
    readme = folder / "README.md"
    shown = readme.is_file() and "equal_flops.csv" in readme.read_text(encoding="utf-8")
    _csv(
        documents["test"]["equal_flops"],
        folder / "equal_flops.csv",
        equal_flops.COLUMNS if shown else (),
    )
    _csv(_estimators(runs["test"].run_dir), folder / "estimators.csv")
    tokens = read_tokens(runs["test"].run_dir)
    if len(tokens):
        averages(tokens).to_csv(folder / "tokens.csv", index=False, float_format="%.6g", lineterminator="\n")
    _figures(name, folder, runs["test"].run_dir, tokens)
    model = runs["test"].model
    facts = {
        "date": date.today().isoformat(),
        "commit": (git_commit(ROOT) or "unknown")[:7],
        "model": model.name,
        **({"weights": weights_digest(model.path)} if is_shipped(model.path) else {}),
        "command": command(name),
        "tasks": len(documents["test"]["tasks"]),
        **{
            key: _size(documents["test"])[place]
            for place, key in enumerate(("questions", "units", "answers"))
        },
        "confirm_questions": _size(documents[CONFIRM])[0] if CONFIRM in documents else None,
        "unreadable": _most_unreadable(documents["test"]["unreadable"]),
        "seconds": {key: json.loads((run.run_dir / COST).read_text()) for key, run in runs.items()},
    }
    (folder / "run.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


def _most_unreadable(rows: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """The arm with visual tokens that has the largest share of unreadable responses to a task."""
    seeing = [row for row in rows if row["arm"] != "blind"]
    worst = max(seeing, key=lambda row: row["share"], default=None)
    return worst and {key: worst[key] for key in ("arm", "task", "share")}


def _estimators(run_dir: Path) -> list[dict[str, Any]]:
    """Paired differences between the estimators of a run, in percentage points of the retained average."""
    from zoo_exp.report.runs import results_of
    from zoo_exp.runs.load import load_run
    from zoo_exp.statistics.claims import decide

    results = results_of(load_run(run_dir))
    if results.contest is None:
        return []
    pairs = decide(ESTIMATORS, results.rows, results.contest, results.above)
    shown = ["budget", "arm", "against", "difference", "low", "high", "p_value"]
    return [{str(key): cell for key, cell in row.items()} for row in pairs[shown].to_dict("records")]


def _size(document: dict[str, Any]) -> tuple[int, int, int]:
    """Questions, units and answers of a run."""
    averages = [row for row in document["rows"] if row["task"] == "average"]
    questions = max(row["n"] for row in averages)
    return questions, max(row["units"] for row in averages), sum(row["n"] * row["seeds"] for row in averages)


def _csv(rows: Sequence[dict[str, Any]], path: Path, columns: Sequence[str] = ()) -> None:
    """Rows as csv with 6 significant digits; no file for no rows and no columns."""
    if not rows and not columns:
        path.unlink(missing_ok=True)
        return
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(rows[0] if rows else columns)
        for row in rows:
            writer.writerow(f"{cell:.6g}" if isinstance(cell, float) else cell for cell in row.values())


def _figures(name: str, folder: Path, run_dir: Path, tokens: Any) -> None:
    """Draw the figures that the README shows."""
    import pandas as pd

    from zoo_exp.report.drawing import draw_all
    from zoo_exp.report.figures_tokens import shares
    from zoo_exp.report.mask_items import read_masks

    readme = folder / "README.md"
    written = readme.read_text(encoding="utf-8") if readme.is_file() else ""
    shown = set(re.findall(r"\((?:figures/)?([\w.]+\.png)\)", written))
    if "masks.png" in shown and (run_dir / "masks.png").is_file():
        shutil.copy(run_dir / "masks.png", folder / "masks.png")
    document = json.loads((run_dir / "results.json").read_text())
    frame = pd.DataFrame(document["rows"])
    frame["options"] = frame["options"].map(lambda found: json.dumps(found, sort_keys=True))
    frame = frame.fillna(value=float("nan"))
    items = read_masks(run_dir)
    budgets = [row["budget"] for row in document["rows"] if row["budget"] is not None]
    smallest = dict.fromkeys(
        row["arm"] for row in document["rows"] if budgets and row["budget"] == budgets[-1]
    )
    kept = {arm: shares(items, arm) for arm in smallest}
    with tempfile.TemporaryDirectory() as there:
        draw_all(frame, kept, len(items), tokens, Path(there) / name)
        for file in Path(there).glob("*.png"):
            if file.name in shown:
                (folder / "figures").mkdir(exist_ok=True)
                shutil.copy(file, folder / "figures" / file.name)


if __name__ == "__main__":
    sys.exit(main())
