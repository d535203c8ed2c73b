"""A selector from a user's own file: `selector=far_from_mean.py:FarFromMean`, without packaging."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
import torch

import zoo_exp
from zoo_exp import cli, selectors
from zoo_exp.cluster import submission
from zoo_exp.cluster.cell import run_cell
from zoo_exp.config import compose
from zoo_exp.config.sweep import points
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError, ZooExpError
from zoo_exp.report.runs import results_of
from zoo_exp.runs.load import load_run

DOCS = Path(__file__).parents[2] / "docs" / "adding_a_selector.md"
CODE, CHECK = re.findall(r"```python\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)[:2]
NAMED = "far_from_mean.py:FarFromMean"
EMBEDDED = ("task=embedded_gqa", "limit=2", "logger=none", "budget=16")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """The current folder, with the file of the documentation; the registry is as before afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(selectors.REGISTRY, "_added", {})
    (tmp_path / "far_from_mean.py").write_text(CODE)
    return tmp_path


def arm(*texts):
    (found,) = compose([*texts, *EMBEDDED]).arms
    return found


def test_it_runs_and_its_rows_have_the_name_of_the_class(folder, capsys):
    assert cli.main(["run", f"selector=[full,{NAMED}]", *EMBEDDED, "out=runs"]) == 0
    assert "far_from_mean @16" in capsys.readouterr().out
    (records,) = folder.glob("runs/custom/*/records.jsonl")
    rows = [json.loads(line) for line in records.read_text().splitlines()]
    mine = [row for row in rows if row["selector"] == "far_from_mean"]
    assert len(mine) == 2
    assert all(row["kept_tokens"] == 16 and row["row"] == "far_from_mean @16" for row in mine)
    assert str(folder) not in records.read_text()
    # The report needs neither the file nor the class.
    (folder / "far_from_mean.py").unlink()
    selectors.REGISTRY._added.clear()
    assert "far_from_mean @16" in set(results_of(load_run(records.parent), draws=20).frame["arm"])


def test_it_prunes_a_model_in_any_script():
    model = zoo_exp.load_model("embedded")
    with zoo_exp.pruned(model, NAMED, 16) as pruning:
        assert type(pruning.selector).__name__ == "FarFromMean"


def test_the_class_may_be_left_out_and_the_path_may_be_anywhere(folder, monkeypatch):
    other = folder / "elsewhere"
    other.mkdir()
    expected = arm(f"selector={NAMED}").id
    assert arm("selector=far_from_mean.py").id == expected
    monkeypatch.chdir(other)
    assert arm(f"selector={folder}/{NAMED}").id == expected
    (other / "far_from_mean.py").write_text(CODE)
    assert arm(f"selector={NAMED}").id == expected  # the same source elsewhere is the same selector


def test_an_edited_file_is_another_arm_also_in_the_same_process(folder):
    before = arm(f"selector={NAMED}")
    edited = CODE.replace("(x - patches", "-1 * (x - patches")
    assert edited != CODE
    (folder / "far_from_mean.py").write_text(edited)
    after = arm(f"selector={NAMED}")
    assert after.id != before.id
    assert after.label == before.label


def test_options_are_options_of_the_command_line(folder):
    (folder / "mine.py").write_text(
        CODE.replace("    paper: ClassVar", "    power: float = 2.0\n    paper: ClassVar").replace(
            '"far_from_mean"', '"mine"'
        )
    )
    assert arm("selector=mine.py", "selector.options.power=3").label == "mine power=3 @16"
    with pytest.raises(UnknownNameError, match="unknown option of selector mine 'powr'"):
        arm("selector=mine.py", "selector.options.powr=3")


def test_it_may_import_a_module_beside_it_and_hides_no_other(folder):
    (folder / "helper_of_mine.py").write_text("NAME = 'mine'\n")
    (folder / "random.py").write_text("raise RuntimeError('the wrong module')\n")
    text = CODE.replace(
        "import torch\n", "import random\n\nimport torch\nfrom helper_of_mine import NAME\n", 1
    )
    (folder / "mine.py").write_text(text.replace('= "far_from_mean"', "= NAME"))
    before = list(sys.path)
    assert arm("selector=mine.py").selector == "mine"
    assert sys.path == before


def test_a_job_of_an_array_finds_it(folder):
    experiment = compose([f"selector=[full,{NAMED}]", *EMBEDDED, "out=runs"])
    plan = submission.folder_of(experiment) / submission.PLAN
    plan.parent.mkdir(parents=True)
    content = {"overrides": experiment.overrides, "config_dirs": [], "tasks": ["embedded_gqa"]}
    plan.write_text(json.dumps({**content, "experiment": experiment.as_dict()}, default=str))
    selectors.REGISTRY._added.clear()
    ran = []
    assert run_cell(plan, 0, lambda found, console, tasks: ran.append(found.id) or 0) == 0
    assert ran == [experiment.id]
    (folder / "far_from_mean.py").write_text(CODE + "\n# edited after the submission\n")
    with pytest.raises(InvalidValueError, match="changed since this job was submitted"):
        run_cell(plan, 0, lambda *_: 0)


BASE = "from zoo_exp.selectors.base import ScoreSelector\n"
BAD = {
    "missing": ("far_from_men.py:FarFromMean", None, MissingFileError,
                "cannot read far_from_men.py: No such file .*Did you mean 'far_from_mean.py'"),
    "folder": ("folder.py", "FOLDER", MissingFileError, "cannot read folder.py: Is a directory"),
    "no such class": ("far_from_mean.py:FarFromMen", None, UnknownNameError,
                      "unknown selector class 'FarFromMen'. Did you mean 'FarFromMean'.*in far_from_mean.py"),
    "empty": ("x.py", "", InvalidValueError, "x.py has no selector: derive a class"),
    "no selector class": ("x.py:Foo", "class Foo: pass\n", InvalidValueError, "Foo in x.py is a class but no selector"),
    "function": ("x.py:foo", "def foo(): pass\n", InvalidValueError, "foo in x.py is a function but no selector"),
    "two": ("x.py", BASE + "class A(ScoreSelector):\n  name = 'a'\nclass B(ScoreSelector):\n  name = 'b'\n",
            InvalidValueError, r"x.py has several selectors \(A, B\): name one, such as x.py:A"),
    "no name": ("x.py", BASE + "class A(ScoreSelector):\n  pass\n", InvalidValueError, "A has no name: set the class"),
    "name of another": ("x.py", BASE + "class A(ScoreSelector):\n  name = 'zoo'\n", InvalidValueError,
                        "a selector named 'zoo' exists already: give A in .*x.py another name"),
    "syntax": ("x.py", "import os\nclass A(:\n", InvalidValueError, "x.py, line 2: invalid syntax"),
    "null bytes": ("x.py", "import os\0\n", InvalidValueError, "x.py.*null bytes"),
    "indentation": ("x.py", "if 1:\nx = 1\n", InvalidValueError, "x.py, line 2: expected an indented block"),
    "fails": ("x.py", "import os\n\nraise KeyError('no')\n", InvalidValueError, "x.py, line 3: KeyError: 'no'"),
    "exits": ("x.py", "import sys\nsys.exit(3)\n", InvalidValueError, "x.py, line 2: SystemExit: 3"),
    "imports nothing": ("x.py", "import no_such_module\n", InvalidValueError, "x.py, line 1: ModuleNotFoundError"),
    "not utf-8": ("x.py", b"x = '\xff'\n", InvalidValueError, "x.py.*utf-8"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_files_are_refused_in_one_line(folder, case, capsys):
    name, text, kind, message = BAD[case]
    if text == "FOLDER":
        (folder / "folder.py").mkdir()
    elif text is not None:
        (folder / "x.py").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(kind, match=message) as caught:
        compose([f"selector={name}", *EMBEDDED])
    assert "\n" not in str(caught.value)
    with pytest.raises(kind):
        selectors.get(name)
    assert cli.main(["check", "selector", name]) == 2
    out, err = capsys.readouterr()
    assert not out
    assert err.startswith("error: ")
    assert err.count("\n") == 1


def test_two_files_with_one_name_are_refused(folder):
    (folder / "other.py").write_text(CODE + "# another\n")
    with pytest.raises(
        InvalidValueError, match=r"'far_from_mean' exists already: give FarFromMean in .*other.py"
    ):
        compose([f"selector=[{NAMED},other.py]", *EMBEDDED])


def test_a_shared_configuration_file_starts_no_code(folder):
    started = folder / "started"
    (folder / "evil.py").write_text(f"open({str(started)!r}, 'w')\n")
    exps, presets = folder / "configs" / "exp", folder / "configs" / "selector"
    exps.mkdir(parents=True)
    presets.mkdir()
    (presets / "preset.yaml").write_text("# x\nselector: evil.py:Evil\n")
    (exps / "arms.yaml").write_text(
        "# x\narms: [{selector: evil.py}]\nbudgets: [16]\ntasks: [embedded_gqa]\n"
    )
    (exps / "swept.yaml").write_text(
        "# x\ntasks: [embedded_gqa]\nsweep: {selector: [zoo, [full, 'evil.py:E']]}\n"
    )
    for texts in (["+exp=arms"], ["selector=preset"], ["+exp=swept"]):
        with pytest.raises(
            ZooExpError, match=r"selector 'evil.py.*must not start code of a file.*selector=evil.py"
        ):
            points([*texts, *EMBEDDED], ["configs"], sweep="swept" in texts[0])
    assert not started.exists()


def test_the_unknown_selector_error_names_both_ways():
    both = r"selector=FILE.py:CLASS, or an installed package.*zoo_exp.selectors"
    for call in (
        lambda: compose(["selector=far_from_men", *EMBEDDED]),
        lambda: selectors.get("far_from_men"),
    ):
        with pytest.raises(UnknownNameError, match=both):
            call()


def test_check_prints_every_check(capsys):
    from zoo_exp.testing import CHECKS

    assert cli.main(["check", "selector", NAMED]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines() if " passed " in line and line[0] != " "][
        : len(CHECKS)
    ] == [*CHECKS]
    assert f"{len(CHECKS)} of {len(CHECKS)} checks passed: selector far_from_mean" in out
    assert cli.main(["check", "selector", "zoo", "fusion=sum"]) == 0
    assert "fusion='sum'" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (".norm(dim=-1)[:5]", r"must score every visual token once: expected shape \(48,\), got \(5,\)"),
        (".norm(dim=-1) + torch.rand(len(x))", "it draws from the global generator"),
        (".nrm(dim=-1)", r"AttributeError: .*'nrm' \(.*bad.py, line 2\d\)"),
    ],
)
def test_check_fails_with_one_clear_sentence(folder, capsys, change, sentence):
    (folder / "bad.py").write_text(CODE.replace(".norm(dim=-1)", change))
    assert cli.main(["check", "selector", "bad.py"]) == 2
    out, err = capsys.readouterr()
    assert " FAILED " in out
    assert re.search(sentence, err)
    assert err.count("\n") == 1


def test_the_cause_comes_before_the_table(folder, monkeypatch):
    (folder / "bad.py").write_text(CODE.replace(".norm(dim=-1)", ".norm(dim=-1)[:5]"))
    both = io.StringIO()
    monkeypatch.setattr(sys, "stdout", both)
    monkeypatch.setattr(sys, "stderr", both)
    assert cli.main(["check", "selector", "bad.py"]) == 2
    first, empty, *_ = both.getvalue().splitlines()
    assert first.startswith("error: selector far_from_mean")
    assert "must score every visual token once" in first
    assert not empty


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["task", "gqa"], "unknown kind of object 'task'"),
        (["selector", "fastv"], "fastv selects between layers of the language model"),
        (["selector", "zoo", "fusion"], "override 'fusion' is not key=value"),
        (["selector", "zoo", "fusoin=sum"], "unknown option of selector zoo 'fusoin'. Did you mean 'fusion'"),
        (["selector", "zoo", "a.b=1"], "an option is KEY=VALUE"),
    ],
)
def test_check_refuses_what_it_cannot_check(capsys, words, message):
    assert cli.main(["check", *words]) == 2
    assert message in capsys.readouterr().err


def test_the_recipe_for_a_package_works_as_written(folder, monkeypatch, capsys):
    (recipe,) = re.findall(r"```toml\n(.*?)```", DOCS.read_text(encoding="utf-8"), re.DOTALL)
    group, line = recipe.strip().splitlines()
    name, target = line.replace('"', "").split(" = ")
    module = target.partition(":")[0].replace(".", "/")
    path = folder / "site" / f"{module}.py"
    path.parent.mkdir(parents=True)
    (path.parent / "__init__.py").touch()
    path.write_text(CODE)
    info = folder / "site" / "my_package-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    section = group.removeprefix('[project.entry-points."').removesuffix('"]')
    (info / "entry_points.txt").write_text(f"[{section}]\n{name} = {target}\n")
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_package"]:
        monkeypatch.delitem(sys.modules, name)  # of another test
    monkeypatch.syspath_prepend(folder / "site")
    monkeypatch.delitem(vars(selectors.REGISTRY), "_installed", raising=False)
    try:
        assert cli.main(["list", "selectors"]) == 0
        assert "far_from_mean" in capsys.readouterr().out
        assert arm("selector=far_from_mean").selector == "far_from_mean"
        assert cli.main(["check", "selector", "far_from_mean"]) == 0
        code = CHECK.replace("FarFromMean()", "selectors.get('far_from_mean')")
        exec(compile(code, DOCS.name, "exec"), {"selectors": selectors, "torch": torch})
    finally:
        vars(selectors.REGISTRY).pop("_installed", None)
