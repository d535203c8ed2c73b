"""From a run folder to tables and figures."""

import io
import json
import subprocess
import sys

from made_up_run import TASKS, arms, known
from rich.console import Console

from zoo_exp import __version__
from zoo_exp.report import summary
from zoo_exp.runs import provenance
from zoo_exp.statistics.arm_rows import group

FILES = {"results.csv", "results.json", "results.md", "masks.png"}


def write(run, **options):
    return summary.write(run, "made_up", known(), arms(), draws=100, **options)


def test_writes_everything_and_prints_the_table(make_run):
    run = make_run(images=12)
    console = Console(file=io.StringIO(), width=120)
    results = write(run, console=console)
    assert {path.name for path in run.iterdir()} >= FILES
    assert "zoo multiply @16" in console.file.getvalue()
    document = json.loads((run / "results.json").read_text())
    assert document["tasks"] == results.tasks == TASKS
    assert document["provenance"]["python"].count(".") == 2
    assert "(masks.png)" in (run / "results.md").read_text()


def test_the_same_records_give_the_same_files(make_run):
    run = make_run(images=12)
    write(run)
    first = {name: (run / name).read_bytes() for name in FILES}
    write(run)
    assert {name: (run / name).read_bytes() for name in FILES} == first


def test_a_gallery_per_budget(make_run):
    run = make_run(images=6)
    more = [
        {**arm, "arm": "zoo none @48", "arm_id": "48", "budget": "48"}
        for arm in arms()
        if arm["arm"] == "zoo none @16"
    ]
    rows = [json.loads(line) for line in (run / "masks.jsonl").read_text().splitlines()]
    for row in rows:
        row["arms"].append({"arm": "zoo none @48", "indices": list(range(48)), "response": "x", "score": 0})
    (run / "masks.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    paths = summary.write_galleries(run, group([*arms(), *more]), TASKS)
    assert [path.name for path in paths] == ["masks.png", "masks_48.png"]


def test_without_masks_there_are_tables_only(make_run):
    run = make_run(images=6, masks=False)
    write(run)
    assert not list(run.glob("masks*.png"))
    assert "masks.png" not in (run / "results.md").read_text()


def test_provenance_names_versions_and_no_folder():
    facts = provenance.versions()
    assert facts["numpy"].split(".")[0].isdigit()
    assert facts["zoo-exp"] == __version__
    assert "/" not in json.dumps(facts)


def test_commit_of_a_work_tree(tmp_path):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", "-C", tmp_path, *who, *arguments], check=True, capture_output=True)

    assert provenance.git_commit(tmp_path) is None
    git("init")
    (tmp_path / "a").write_text("1")
    (tmp_path / "untracked").mkdir()
    git("add", "a")
    git("commit", "-m", "x", "--no-gpg-sign")
    commit = provenance.git_commit(tmp_path)
    assert len(commit) == 40
    (tmp_path / "a").write_text("2")
    assert provenance.git_commit(tmp_path) == f"{commit}+changes"
    assert provenance.git_commit(tmp_path / "untracked") is None


def test_a_report_needs_neither_torch_nor_wandb():
    code = (
        "import sys, zoo_exp.report.summary, zoo_exp.tracking.final_run\n"
        "print([m for m in ('torch', 'lightning', 'wandb', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
