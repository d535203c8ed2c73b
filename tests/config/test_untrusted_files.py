"""Untrusted experiment files, and names outside of the output folder: one line with file and line number."""

import pytest

from zoo_exp.config import compose
from zoo_exp.config.checked_yaml import read
from zoo_exp.config.sweep import MAX_POINTS, points
from zoo_exp.errors import InvalidValueError, MissingFileError, ZooExpError

GOOD = "name: e\nquestion: q\ntasks: [embedded_pope]\narms: [{selector: full}]\n"
BOMB = "".join(
    f"{name}: &{name} [{', '.join([below] * 10)}]\n"
    for name, below in zip("abcdefghi", ["x", *(f"*{name}" for name in "abcdefgh")], strict=True)
)
REFUSED = {
    "duplicate key": (f"{GOOD}budgets: [16]\nbudgets: [8]\n", "e.yaml:6: key 'budgets' is repeated"),
    "duplicate key below a key": (f"{GOOD}data:\n  root: a\n  root: b\n", "e.yaml:7: key 'root' is repeated"),
    "anchor in itself": (f"{GOOD}budgets: &a [*a]\n", "e.yaml:5: an anchor contains itself"),
    "mapping in itself": (f"{GOOD}sweep: &a {{b: *a}}\n", "e.yaml:5: an anchor contains itself"),
    "alias bomb": (BOMB + GOOD, "its aliases expand to 1.23e+09 values"),
    "nested lists": (f"name: {'[' * 3000}{']' * 3000}\n", "nested too deep"),
    "nested blocks": (f"{GOOD}sweep: {'{a: ' * 60}1{'}' * 60}\n", "e.yaml:5: values are nested too deep"),
    "defaults of itself": (f"defaults: [e]\n{GOOD}", "include each other"),
    "environment": (f"{GOOD}out: 'x ${{oc.env:HOME}}'\n", "e.yaml:5: only interpolations of other keys"),
    "environment in a list": (f"{GOOD}budgets: ['${{oc.env:HOME}}']\n", "e.yaml:5: only interpolations"),
    "environment in a key": (f"{GOOD}sweep: {{'${{oc.env:HOME}}': [1]}}\n", "e.yaml:5: only interpolations"),
    "resolver of a computed name": (
        f"{GOOD}out: '${{${{name}}:HOME}}'\n",
        "only interpolations of other keys",
    ),
    "hidden resolver": (f"{GOOD}out: '${{model.${{oc.env:HOME}}}}'\n", "only interpolations of other keys"),
    "tag that builds an object": (
        f"{GOOD}out: !!python/object/apply:os.system ['true']\n",
        "e.yaml:5: not valid",
    ),
    "date that does not exist": (f"{GOOD}out: 2024-13-45\n", "not valid YAML"),
    "tabs": (f"{GOOD}data:\n\troot: a\n", "e.yaml:6: not valid YAML"),
    "list": ("- a\n- b\n", "must be a mapping"),
    "name outside of out": (GOOD.replace("name: e", "name: ../../e"), "must be a folder name"),
    "file outside of the folder": (f"defaults: [../../../etc/passwd]\n{GOOD}", "passwd"),
    "too large": (f"{GOOD}question: {'x' * 2**20}\n", "larger than 1 MiB"),
    "empty output folder": (f"{GOOD}out: ''\n", "out=''"),
}


def write(folder, text, name="e"):
    path = folder / "exp" / f"{name}.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path


@pytest.mark.parametrize("kind", REFUSED)
def test_a_file_that_must_not_be_used_is_refused_in_one_line(kind, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", "a-secret")
    text, words = REFUSED[kind]
    write(tmp_path, text)
    with pytest.raises(ZooExpError) as caught:
        compose(["+exp=e"], [tmp_path])
    message = str(caught.value)
    assert words in message
    assert "a-secret" not in message
    assert "\n" not in message
    assert len(message) < 600


def test_files_that_include_each_other_are_refused(tmp_path):
    write(tmp_path, f"defaults: [f]\n{GOOD}")
    write(tmp_path, f"defaults: [e]\n{GOOD}", "f")
    with pytest.raises(InvalidValueError, match="include each other"):
        compose(["+exp=e"], [tmp_path])


def test_an_included_file_is_checked_like_the_first(tmp_path):
    write(tmp_path, f"defaults: [f]\n{GOOD}")
    write(tmp_path, "question: ${oc.env:HOME}\n", "f")
    with pytest.raises(InvalidValueError, match=r"f\.yaml:1: only interpolations"):
        compose(["+exp=e"], [tmp_path])


def test_what_files_may_hold_still_works(tmp_path):
    write(tmp_path, "budgets: &b [16, 8]\n", "f")
    text = GOOD.replace("{selector: full}", "{selector: zoo, budgets: *b}")
    write(tmp_path, f"defaults: [f]\nbudgets: &b ${{model.budgets}}\nlimit: 3\n{text}")
    found = compose(["+exp=e"], [tmp_path])
    assert found.limit == 3
    assert [str(arm.budget) for arm in found.arms] == ["48", "32", "16", "8", "4"]


def test_a_resolver_works_on_the_command_line(monkeypatch):
    monkeypatch.setenv("SOME_QUESTION", "why")
    assert compose(["selector=full", "question=${oc.env:SOME_QUESTION}"]).question == "why"


def test_a_folder_with_quotes_in_its_name(tmp_path):
    folder = tmp_path / "it's [here]"
    folder.mkdir()
    write(folder, GOOD)
    assert compose(["+exp=e"], [folder]).name == "e"


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(MissingFileError, match="cannot read"):
        read(tmp_path)


@pytest.mark.parametrize(
    "name", ["../x", "..", ".", "''", "' '", "/abs", "a/b", "'a\\\\b'", '"a\tb"', "x" * 200]
)
def test_a_name_is_one_path_component(name):
    with pytest.raises(InvalidValueError, match="must be a folder name"):
        compose(["selector=full", f"name={name}"])


@pytest.mark.parametrize("name", ["plain", "'with space'", "'[red]'", "'ünïcode'", "a.b-c_d"])
def test_other_names_are_folders_below_out(name):
    found = compose(["selector=full", f"name={name}", "out=here"])
    assert found.run_dir.parent.parent.name == "here"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("out=", "give a folder"),
        ("model.batch_size=9223372036854775808", "between 1 and 2147483647"),
        ("limit=99999999999999999999", "between 1 and 2147483647"),
        ("trainer.accelerator=tpu", "allowed are auto, cpu"),
        ("trainer.strategy=ddp_spawn", "allowed are auto, ddp"),
        ("cache.limit_gb=nan", "between"),
        ("cache.limit_gb=inf", "between"),
        ("cache.limit_gb=1e300", "between"),
    ],
)
def test_a_value_out_of_bounds_is_refused(override, words):
    with pytest.raises(InvalidValueError, match=words):
        compose(["selector=full", override])


@pytest.mark.parametrize(
    "axes",
    [
        ["seed=range(0,1000000000)"],
        [f"seed=range(0,{MAX_POINTS + 1})"],
        ["seed=range(0,200)", "limit=range(1,200)"],
        ["task=glob(*)"],
        ["seed=interval(0,1)"],
        ["seed=range(0,10,0)"],
    ],
)
def test_a_sweep_that_is_too_large_or_has_no_values_is_refused_at_once(axes):
    with pytest.raises(InvalidValueError, match=r"more than 10000 points|give values such as"):
        points(["selector=full", *axes], sweep=True)
