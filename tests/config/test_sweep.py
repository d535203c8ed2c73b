"""The points of a sweep, and errors that stop all of them."""

import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo_exp.config import overrides
from zoo_exp.config.sweep import as_text, points
from zoo_exp.errors import InvalidValueError, UnknownNameError

SWEEP = "arms: [{selector: zoo}]\nsweep:\n  budget: [48, 32]\n  seed: 0,1\n"


def typed(texts, config_dirs=(), sweep=True):
    return [point.overrides for point in points(texts, config_dirs, sweep=sweep)]


def test_commas_make_axes_and_the_last_one_runs_fastest():
    fusions, budgets = ["sum", "none"], ["64", "32", "11.1%"]
    axes = [f"selector.options.fusion={','.join(fusions)}", f"budget={','.join(budgets)}"]
    found = typed(["selector=zoo", *axes])
    assert found == [
        ("selector=zoo", f"selector.options.fusion={fusion}", f"budget={budget}")
        for fusion, budget in itertools.product(fusions, budgets)
    ]


def test_every_point_is_its_own_experiment():
    found = points(["selector=zoo", "budget=64,32"], sweep=True)
    assert [point.experiment.arms[0].budget.count for point in found] == [64, 32]
    assert len({point.experiment.id for point in found}) == 2


def test_without_axes_there_is_one_point():
    assert typed(["selector=full"]) == [("selector=full",)]
    assert typed(["selector=full"], sweep=False) == [("selector=full",)]


def test_commas_without_the_flag_are_refused_with_both_ways_out():
    with pytest.raises(InvalidValueError, match=r"budget=64,32 .*add -m .*budget=\[64,32\]"):
        points(["selector=zoo", "budget=64,32"])


def test_at_most_is_swept_without_quotes_of_its_own():
    found = points(["selector=zoo", "budget=<=64,<=32/tile,9"], sweep=True)
    assert [str(point.experiment.arms[0].budget) for point in found] == ["<=64", "<=32/tile", "9"]
    # What a point says can be typed again.
    again = points(found[0].overrides)
    assert again[0].experiment.id == found[0].experiment.id


def test_at_most_with_commas_is_refused_with_what_a_shell_takes():
    with pytest.raises(InvalidValueError, match=r"budget=<=64,<=32 has .*write budget='\[<=64,<=32\]'"):
        points(["selector=zoo", "budget=<=64,<=32"])


def test_a_bare_name_gets_a_hint():
    with pytest.raises(InvalidValueError, match=r"type \+exp=ablation_fusion"):
        points(["ablation_fusion"])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "mine.yaml").write_text(SWEEP)
    return [tmp_path]


def test_an_experiment_file_may_name_the_axes(folder):
    assert typed(["+exp=mine"], folder) == [
        ("+exp=mine", f"budget={budget}", f"seed={seed}") for budget in (48, 32) for seed in (0, 1)
    ]
    assert typed(["+exp=mine"], folder, sweep=False) == [("+exp=mine",)]


def test_the_command_line_replaces_an_axis_of_the_file(folder):
    expected = [("+exp=mine", "budget=9", f"seed={seed}") for seed in (0, 1)]
    assert typed(["+exp=mine", "budget=9"], folder) == expected


def test_one_bad_point_stops_all_and_is_named():
    with pytest.raises(InvalidValueError, match=r"(?s)budget 200.*at the point: selector=zoo budget=200"):
        points(["selector=zoo", "budget=64,200"], sweep=True)
    with pytest.raises(UnknownNameError, match=r"at the point: selector=zo\)$"):
        points(["selector=zoo,zo"], sweep=True)


@pytest.mark.parametrize("axis", ["seed: []", "seed: 3"])
def test_an_axis_without_values_is_refused(folder, axis):
    (folder[0] / "exp" / "mine.yaml").write_text(f"arms: [{{selector: full}}]\nsweep:\n  {axis}\n")
    with pytest.raises(InvalidValueError, match=r"sweep\.seed"):
        points(["+exp=mine"], folder, sweep=True)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="ascii", min_codepoint=32), min_size=1, max_size=8).filter(
        lambda text: text.strip() == text and not _reads_as_another_value(text)
    ),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


def _reads_as_another_value(text):
    """A bare word such as `null` or `1e3` is a value of its own in YAML too, so no axis holds it as text."""
    try:
        return not isinstance(overrides.plain(overrides.parse([f"key={text}"])[0].value()), str)
    except InvalidValueError:
        return False


@given(VALUES)
@settings(max_examples=60, deadline=None)
def test_a_value_written_as_text_is_read_back_as_it_was(value):
    parsed = overrides.parse([f"key={as_text(value)}"])[0]
    assert not parsed.is_sweep_override()
    assert overrides.plain(parsed.value()) == value


def test_a_list_of_models_is_an_axis_also_without_the_flag():
    models = "model=[embedded,embedded_next]"
    found = points(["selector=[full,zoo]", models, "budget=16", "task=embedded_pope"])
    assert [point.experiment.model.name for point in found] == ["embedded", "embedded_next"]
    assert found[0].overrides == ("selector=[full,zoo]", "budget=16", "task=embedded_pope", "model=embedded")
    assert len(typed(["selector=zoo", models, "budget=16,8", "task=embedded_pope"])) == 4


@pytest.mark.parametrize("value", ["[]", "[embedded,embedded]", "[embedded,{a:1}]"])
def test_a_bad_list_of_models_is_refused(value):
    with pytest.raises(InvalidValueError, match=r"listed twice|a list of names of models"):
        points(["selector=zoo", "budget=16", f"model={value}"])


def test_an_option_applies_to_the_selectors_that_have_it():
    found = points(
        ["selector=[full,zoo,divprune]", "budget=16", "selector.options.fusion=sum,none"], sweep=True
    )
    for point, fusion in zip(found, ("sum", "none"), strict=True):
        options = {arm.selector: dict(arm.options) for arm in point.experiment.arms}
        assert options["full"] == {}
        assert options["zoo"]["fusion"] == fusion
        assert point.experiment.notes == (
            "selector.options.fusion applies to zoo; full, divprune have no option fusion",
        )
    with pytest.raises(
        UnknownNameError, match=r"unknown option of these selectors 'fusio'.*full has newline"
    ):
        points(["selector=[full,divprune]", "budget=16", "selector.options.fusio=sum"])
    assert points(["selector=zoo", "budget=16", "selector.options.fusion=sum"])[0].experiment.notes == ()
