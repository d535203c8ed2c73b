"""Claims, splits, positions and smallest budgets of experiment files."""

import pytest

from zoo_exp.config import compose
from zoo_exp.errors import InvalidValueError, UnknownNameError


def labels(*overrides):
    return [arm.label for arm in compose(overrides).arms]


@pytest.fixture
def own(tmp_path):
    (tmp_path / "exp").mkdir()

    def write(text):
        (tmp_path / "exp" / "mine.yaml").write_text(text)
        return compose(["+exp=mine"], [tmp_path])

    return write


def test_a_split_takes_the_same_tasks_on_other_scenes():
    plain = compose(["+exp=ablation_fusion"])
    other = compose(["+exp=ablation_fusion", "split=confirm"])
    assert other.tasks == tuple(f"{task}_confirm" for task in plain.tasks)
    assert other.id != plain.id
    with pytest.raises(InvalidValueError, match=r"task gqa has no such split.*validation, confirm"):
        compose(["+exp=ablation_fusion", "model=llava_next_7b", "split=confirm"])
    with pytest.raises(InvalidValueError, match="split=confrim"):
        compose(["+exp=ablation_fusion", "split=confrim"])


POSITIONS = "+arms=[{selector: zoo, budgets: [9]}, {selector: zoo, budgets: [9], positions: original}]"


def test_positions_of_kept_tokens_belong_to_an_arm():
    plain, original = compose([POSITIONS]).arms
    assert (plain.positions, original.positions) == (None, "original")
    assert original.label == "zoo original positions @9"
    assert plain.id != original.id
    for selector, words in (("fastv", "option positions=original"), ("full", "remove positions")):
        with pytest.raises(InvalidValueError, match=words):
            compose([f"selector={selector}", "selector.positions=original", "budget=9"])
    with pytest.raises(UnknownNameError, match="Did you mean 'original'"):
        compose(["selector=zoo", "selector.positions=orginal", "budget=9"])


def test_an_arm_leaves_out_budgets_below_its_smallest_share():
    assert labels("selector=zoo", "selector.smallest=0.1", "budget=[48,15,14]") == [
        "zoo multiply @48",
        "zoo multiply @15",
    ]
    assert labels("selector=zoo", "selector.smallest=0.1", "budget=[20%,5%]", "model.n_visual=null") == [
        "zoo multiply @0.2"
    ]


def test_claims_name_rows_of_the_experiment(own):
    arms = "arms:\n  - {selector: zoo}\n  - {selector: divprune}\nbudgets: [9]\n"
    found = own(f"{arms}claims:\n  - {{claim: better, arm: zoo, against: divprune}}\n").claims
    assert [(one.claim, one.arm, one.against) for one in found] == [("better", "zoo", "divprune")]
    with pytest.raises(UnknownNameError, match=r"row in claims 'divprun'.*Did you mean 'divprune'"):
        own(f"{arms}claims:\n  - {{claim: better, arm: zoo, against: divprun}}\n")
    with pytest.raises(UnknownNameError, match=r"claims\[0\].arms"):
        own(f"{arms}claims:\n  - {{claim: better, arms: zoo, against: divprune}}\n")
    assert compose(["+exp=ablation_fusion", "selector=[zoo,divprune]"]).claims == ()
