r"""Compare responses and scores of lmms-eval (with the plug-in) and of this package.

The requirements of lmms-eval conflict with ours, so it is installed into a separate folder:

    pip install --no-deps --target OVERLAY lmms-eval==0.7.3 accelerate loguru sacrebleu portalocker tabulate \
        colorama lxml evaluate pytz tenacity openpyxl pytablewriter dataproperty typepy mbstrdecoder chardet \
        tcolorpy pathvalidate tabledata filelock==3.16.1
    PYTHONPATH=OVERLAY python benchmarks/lmms_eval_parity.py --limit 60 --selector zoo --budget 16

The rows of embedded tasks are written as Parquet with the official columns; lmms-eval reads them through its own task
files with the prompts of the embedded model (only the question). The exit code is 1 if anything differs.
"""

import argparse
import json
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from zoo_exp import tasks
from zoo_exp.core.budget import WITHOUT_BUDGET
from zoo_exp.tasks import data

# Ours -> the reference's task file, and its prompt settings.
REFERENCE = {
    "embedded_pope": ("pope/pope.yaml", {}),
    "embedded_vqav2": ("vqav2/vqav2_val.yaml", {}),
    "embedded_textvqa": ("textvqa/textvqa_val.yaml", {"ocr": False}),
    "embedded_scienceqa": ("scienceqa/scienceqa_img.yaml", {"format": "default"}),
}
Answers = dict[str, dict[int, tuple[str, float]]]  # task -> row -> answer, score
Metrics = dict[str, dict[str, float]]


def main() -> int:
    """Run both, print one line per task and kind, and return 1 if anything differs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tasks", nargs="+", default=list(REFERENCE), choices=list(REFERENCE))
    parser.add_argument("--limit", type=int, default=60, help="questions of each task")
    parser.add_argument("--selector", default="zoo")
    parser.add_argument("--budget", default="16")
    args = parser.parse_args()
    try:
        import lmms_eval  # noqa: F401
    except ImportError:
        print(f"lmms-eval is not at hand.\n{__doc__}", file=sys.stderr)
        return 2
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        for name in args.tasks:
            write_task(place, name, args.limit)
        ours, our_metrics = own_loop(place, args)
        failed = 0
        for kind in ("chat", "simple"):
            theirs, their_metrics = reference_loop(place, args, kind)
            for name in args.tasks:
                failed += compare(
                    f"{name}, {kind}", ours[name], theirs[name], our_metrics[name], their_metrics[name]
                )
    print("all equal" if not failed else f"{failed} comparisons differ")
    return 1 if failed else 0


def write_task(place: Path, name: str, limit: int) -> None:
    """A parquet file with the task's first rows, and a task file that points to it."""
    import datasets
    import lmms_eval.tasks
    import yaml

    rows = data.load(tasks.get(name), limit=limit)
    table = datasets.Dataset.from_list([{k: v for k, v in row.items() if k != "row"} for row in rows])
    path = place / f"{name}.parquet"
    table.to_parquet(path)
    file, prompt = REFERENCE[name]
    settings = {
        "include": str(Path(lmms_eval.tasks.__file__).parent / file),
        "task": name,
        "dataset_path": "parquet",
        "dataset_name": None,
        "test_split": "test",
        "dataset_kwargs": {"data_files": {"test": str(path)}},
        "lmms_eval_specific_kwargs": {"default": {"pre_prompt": "", "post_prompt": "", **prompt}},
    }
    (place / f"{name}.yaml").write_text(yaml.safe_dump(settings))


def own_loop(place: Path, args: argparse.Namespace) -> tuple[Answers, Metrics]:
    """The runner's records."""
    from rich.console import Console

    from zoo_exp import pipeline
    from zoo_exp.config import compose

    overrides = [
        f"selector={args.selector}", f"task=[{','.join(args.tasks)}]", f"limit={args.limit}",
        "logger=none", f"out={place / 'runs'}",
    ]  # fmt: skip
    if args.selector not in WITHOUT_BUDGET:
        overrides.append(f"budget={args.budget}")
    experiment = compose(overrides)
    pipeline.run(experiment, Console(quiet=True))
    lines = (experiment.run_dir / "records.jsonl").read_text().splitlines()
    records = [json.loads(line) for line in lines]
    answers, metrics = {}, {}
    for name in args.tasks:
        task = tasks.get(name)
        ids = data.load(task, limit=args.limit).sample_ids(task)
        mine = {
            record["sample_id"]: record for record in records if record["task"] == name and not record["seed"]
        }
        answers[name] = {row: (mine[i]["response"], mine[i]["score"]) for row, i in enumerate(ids)}
        metrics[name] = task.aggregate([{"sample_id": i, **mine[i]["parts"]} for i in ids])
    return answers, metrics


def reference_loop(place: Path, args: argparse.Namespace, kind: str) -> tuple[Answers, Metrics]:
    """lmms-eval's samples and results."""
    from lmms_eval.evaluator import simple_evaluate
    from lmms_eval.tasks import TaskManager
    from loguru import logger

    from zoo_exp.lmms_eval_plugin.models import ZooExpChat, ZooExpSimple

    logger.remove()
    logging.disable(logging.WARNING)
    budget = None if args.selector in WITHOUT_BUDGET else args.budget
    model = (ZooExpChat if kind == "chat" else ZooExpSimple)(
        pretrained="embedded", selector=args.selector, budget=budget, batch_size=20
    )
    here = Path.cwd()
    os.chdir(place)  # it writes submission files into the working folder
    try:
        results = simple_evaluate(
            model=model,
            tasks=list(args.tasks),
            task_manager=TaskManager(include_path=str(place), include_defaults=False, model_name="zoo_exp"),
            log_samples=True,
            bootstrap_iters=0,
            force_simple=kind == "simple",
        )
    finally:
        os.chdir(here)
    answers: Answers = {}
    for name in args.tasks:
        main_metric = tasks.get(name).main_metric
        answers[name] = {}
        for sample in results["samples"][name]:
            part: Any = sample.get(main_metric)
            score = part["score"] if isinstance(part, dict) else part
            answers[name][sample["doc_id"]] = (sample["filtered_resps"][0], float(score))
    metrics = {
        name: {key.split(",")[0]: value for key, value in results["results"][name].items()}
        for name in args.tasks
    }
    return answers, metrics


def compare(
    what: str,
    ours: dict[int, tuple[str, float]],
    theirs: dict[int, tuple[str, float]],
    our_metrics: dict[str, float],
    their_metrics: dict[str, Any],
) -> int:
    """Print how many answers and scores are equal and whether the metrics are; 1 if not all are."""
    answers = sum(ours[row][0] == theirs.get(row, ("", 0.0))[0] for row in ours)
    scores = sum(abs(ours[row][1] - theirs.get(row, ("", -1.0))[1]) < 1e-9 for row in ours)
    shared = [key for key in our_metrics if isinstance(their_metrics.get(key), (int, float))]
    apart = [key for key in shared if abs(our_metrics[key] - their_metrics[key]) > 1e-9]
    values = ", ".join(f"{key} {our_metrics[key]:.4f}" for key in shared)
    print(f"{what}: {answers} answers and {scores} scores of {len(ours)} equal; {values}")
    for key in apart:
        print(f"  {key}: ours {our_metrics[key]}, lmms-eval {their_metrics[key]}")
    fine = answers == scores == len(ours) == len(theirs) and shared and not apart
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
