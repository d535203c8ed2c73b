"""Tables in READMEs: each is what its files give, and there are no numbers in tables outside of marked blocks."""

import json
import re
from pathlib import Path

import pytest

from zoo_exp.cli import main
from zoo_exp.embedded.shipped import weights_digest
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.report.readme import fill, outside

ROOT = Path(__file__).resolve().parents[2]
READMES = sorted([ROOT / "README.md", *(ROOT / "experiments").glob("**/README.md")])
BY_REHEARSE = ROOT / "experiments" / "rehearsal" / "README.md"
"""Its table is the output of `rehearse`, which has no file of results."""
ADVICE = re.compile(r"<!-- filled by: .*?<!-- end -->", re.DOTALL)
"""The table of benchmarks/advice.py, which tests/house compares."""
NUMBER = re.compile(r"\|\s*\**[+-]?\d[\d,]*\.\d+")
"""A cell that begins with a decimal number."""


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_every_table_is_what_its_files_give(readme):
    document = readme.read_text(encoding="utf-8")
    assert fill(document, readme.parent) == document, f"python -m zoo_exp report --readme {readme.parent}"


@pytest.mark.parametrize("readme", READMES, ids=lambda path: path.parent.name)
def test_no_table_of_numbers_stands_outside_of_a_block(readme):
    if readme == BY_REHEARSE:
        return
    document = ADVICE.sub("", outside(readme.read_text(encoding="utf-8")))
    lines = document.splitlines()
    assert [line for line in lines if NUMBER.search(line)] == []


RESULTS = """arm,row,selector,options,budget,seeds,task,metric,value,low,high,n,images,retained,retained_low,\
retained_high,best,above_budget,seed_sd,kept_tokens,layer_tokens,n_visual,flops_tflop,prefill_tflop,selector_tflop,\
select_ms
full,full,full,{},,1,world2_gqa,exact_match,0.96,0.9,0.98,100,90,100,100,100,False,False,,144,,144,0.0007,0.0005,0,0.1
full,full,full,{},,1,average,score,0.96,0.9,0.98,100,90,100,100,100,False,False,,144,,144,0.0007,0.0005,0,0.1
zoo @8,zoo @8,zoo,{},8,1,world2_gqa,exact_match,0.72,0.6,0.8,100,90,75,70,81.25,True,False,1.5,8,,144,0.0004,0.0002,\
0.00003,2.5
zoo @8,zoo @8,zoo,{},8,1,average,score,0.72,0.6,0.8,100,90,75,70,81.25,True,False,1.5,8,,144,0.0004,0.0002,0.00003,2.5
'=x @4,'=x @4,zoo,{},4,1,average,score,0.5,0.4,0.6,100,90,52,,,False,True,,,12.5,144,0.0004,0.0002,,1
"""


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "results.csv").write_text(RESULTS)
    return tmp_path


def filled(folder, spec):
    return fill(f"a\n<!-- table: {spec} -->\nold\n<!-- end of table -->\nb", folder).splitlines()[2:-2]


def test_a_table_of_results(folder):
    found = filled(
        folder, "results.csv columns=arm,kept,tasks,retained,score,seed_sd,select,prefill,selector"
    )
    assert found == [
        "| Arm | kept | GQA | Avg. retained % | mean score % | seed sd | select ms | prefill GFLOP | selector GFLOP |",
        "| :-- | --: | --: | --: | --: | --: | --: | --: | --: |",
        "| full | 144 | 96.0 | 100.0 | 96.0 | - | 0.10 | 0.5 | 0 |",
        r"| zoo @8 | 8 | 72.0 | **75.0 \[70.0, 81.2\]** | 72.0 | 1.50 | 2.50 | 0.2 | 0.03 |",
        "| =x @4 | 12.5\u2021 | - | 52.0 | 50.0 | - | 1.00 | 0.2 | - |",
    ]
    assert len(filled(folder, "results.csv budget=8")) == 4
    assert filled(folder, "results.csv columns=arm arms=zoo")[2:] == ["| zoo @8 |"]
    assert filled(folder, "results.csv by=task arms=full;zoo") == [
        "| family | questions | full | zoo @8 |",
        "| :-- | --: | --: | --: |",
        r"| GQA (exact\_match) | 100 | 96.0 \[90.0, 98.0\] | 72.0 \[60.0, 80.0\] |",
        r"| mean score | 100 | 96.0 \[90.0, 98.0\] | 72.0 \[60.0, 80.0\] |",
    ]


def claim(budget, holds, difference=1.0, claim="ZOO is better"):
    return (
        f"{claim},{budget},zoo @{budget} (3 seeds),divprune @{budget},90,89,{difference},"
        f"{difference - 0.5},{difference + 0.5},0.0004,0.0012,{holds}\n"
    )


def test_claims_are_said_in_words_with_their_rows(folder):
    header = "claim,budget,arm,against,retained,retained_against,difference,low,high,p_value,p_holm,holds\n"
    (folder / "claims.csv").write_text(
        header + claim(8, "yes") + claim(4, "no: reversed", -2) + claim(2, "yes")
    )
    (folder / "claims_confirm.csv").write_text(header + claim(8, "not shown"))
    text, _, head, _, *lines = filled(folder, "claims.csv confirm=claims_confirm.csv")
    assert text == (
        "* ZOO is better: holds at 8 and 2; is reversed at 4 (rows of `zoo` and `divprune`). "
        "On the confirm scenes it is not shown at 8."
    )
    assert "confirm: holds" in head
    eight = r"| ZOO is better | zoo @8 (3 seeds) | divprune @8 | +1.0 \[+0.5, +1.5\] | 0.001 | yes |"
    assert lines[0] == rf"{eight} +1.0 \[+0.5, +1.5\] | not shown |"
    assert lines[1].endswith("| no: reversed | - | - |")


def test_other_files(folder):
    (folder / "flops.csv").write_text("arm,a,b\nzoo,0.12345,1234.5\nfull,2,\n")
    assert filled(folder, "flops.csv columns=arm,b:B,a digits=2") == [
        "| arm | B | a |", "| :-- | --: | --: |", "| zoo | 1234 | 0.12 |", "| full | - | 2 |",
    ]  # fmt: skip
    (folder / "cpu.json").write_text(json.dumps({"rows": [{"what": "x", "ms": 1.5}, {"what": "y"}]}))
    assert filled(folder, "cpu.json")[2:] == ["| x | 1.5 |", "| y | - |"]
    (folder / "run.json").write_text(
        json.dumps(
            {"date": "2026-01-02", "commit": "abc", "model": "m", "command": "c", "questions": 1000, "tasks": 2,
             "answers": 2000, "confirm_questions": 500, "seconds": {"test": 61.2, "confirm": 600}}
        )
    )  # fmt: skip
    assert filled(folder, "run.json") == [
        "Answered 2026-01-02 on commit abc, model `m`: `c`. 1,000 questions over 2 tasks, 2,000 answers. Claims again "
        "on 500 questions about the scenes of split `confirm`. Processor time: test 61 s, confirm 10.0 min."
    ]
    most = {"arm": "zoo multiply @8", "task": "world2_pope", "share": 0.0625}
    for share, said in (
        (most, "Unreadable responses: at most 6.2 % of the responses of `zoo multiply @8` to `world2_pope`."),
        (most | {"share": 0.0}, "No unreadable responses to questions with closed answers."),
    ):
        facts = json.loads((folder / "run.json").read_text()) | {"unreadable": share}
        (folder / "run.json").write_text(json.dumps(facts))
        assert said in filled(folder, "run.json")[0]
    for weights, earlier in ((weights_digest("embedded"), False), ("0" * 12, True)):
        facts = json.loads((folder / "run.json").read_text()) | {"model": "embedded", "weights": weights}
        (folder / "run.json").write_text(json.dumps(facts))
        assert ("**Earlier weights:**" in filled(folder, "run.json")[0]) == earlier
    (folder / "equal_flops.csv").write_text("arm,against\n")
    assert filled(folder, "equal_flops.csv") == ["None in this run."]
    assert filled(folder, "nothing.csv") == [
        f"Not answered yet: `python experiments/reproduce.py {folder.name}`."
    ]


@pytest.mark.parametrize(
    ("document", "error", "words"),
    [
        ("<!-- table: results.csv -->\nno end", InvalidValueError, "end of table"),
        ("<!-- table: results.csv colums=arm -->\n<!-- end of table -->", UnknownNameError, "'columns'"),
        ("<!-- table: results.csv columns=amr -->\n<!-- end of table -->", UnknownNameError, "'arm'"),
        (
            "<!-- table: results.csv arm -->\n<!-- end of table -->",
            InvalidValueError,
            "'arm' is not key=value",
        ),
    ],
)
def test_bad_blocks_are_named(folder, document, error, words):
    with pytest.raises(error, match=words):
        fill(document, folder)


def test_the_command_writes_the_tables(folder, capsys):
    readme = folder / "README.md"
    readme.write_text("<!-- table: results.csv columns=arm -->\n<!-- end of table -->\n")
    assert main(["report", "--readme", str(folder)]) == 0
    assert "| zoo @8 |" in readme.read_text()
    assert main(["report", "--readme", str(folder)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{readme}: written", f"{readme}: unchanged"]
    assert main(["report"]) == 2
    assert main(["report", "--readme", str(folder / "nowhere")]) == 2
    assert "give one of them" in capsys.readouterr().err
