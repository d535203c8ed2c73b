"""From overrides to an experiment, and error messages for invalid ones."""

import re
import shlex
import shutil

import pytest

from zoo_exp.config import compose, folders
from zoo_exp.config.experiment import arms_text
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError, ZooExpError


def labels(*overrides):
    return [arm.label for arm in compose(overrides).arms]


def test_ablation_fusion_is_four_fusions_at_five_budgets_beside_full_blind_and_random():
    experiment = compose(["+exp=ablation_fusion"])
    assert len(experiment.tasks) == 9
    assert len(experiment.tasks) * experiment.limit >= 900
    assert [arm.label for arm in experiment.arms if arm.budget is None] == ["full", "blind"]
    zoo = [arm for arm in experiment.arms if arm.selector == "zoo"]
    controls = [arm for arm in zoo if "control" in arm.options]
    assert {(arm.options["fusion"], arm.budget.count) for arm in zoo if arm not in controls} == {
        (fusion, count) for fusion in ("none", "diversity", "sum", "multiply") for count in (48, 32, 16, 8, 4)
    }
    random = [arm for arm in experiment.arms if arm.selector == "random"]
    assert sorted((arm.budget.count, arm.seed_index) for arm in random) == sorted(
        (count, seed) for count in (48, 32, 16, 8, 4) for seed in range(3)
    )
    assert len(experiment.arms) == 2 + len(zoo) + len(random)


def test_the_model_brings_its_own_budgets_tasks_and_limit():
    experiment = compose(["+exp=ablation_fusion", "model=llava_next_7b"])
    assert {str(arm.budget) for arm in experiment.arms if arm.budget} == {"128/tile", "64/tile", "32/tile"}
    assert "pope" in experiment.tasks
    assert experiment.limit is None


@pytest.mark.parametrize("prefix", ["", "+", "++"])
def test_the_prefix_of_an_override_does_not_matter(prefix):
    experiment = compose([f"{prefix}exp=ablation_fusion", f"{prefix}seed=7", f"{prefix}model.layers=2"])
    assert (experiment.name, experiment.seed, experiment.model.layers) == ("ablation_fusion", 7, 2)


@pytest.mark.parametrize(
    ("budget", "expected"),
    [("64", ["zoo multiply @64"]), ("[64,32]", ["zoo multiply @64", "zoo multiply @32"]),
     ("11.1%", ["zoo multiply @0.111"]), ("0.5", ["zoo multiply @0.5"]), ("64 mean", ["zoo multiply @64 mean"]),
     ("[64 mean,32]", ["zoo multiply @64 mean", "zoo multiply @32"])],
)  # fmt: skip
def test_budget_replaces_the_budgets_of_all_arms(budget, expected):
    assert labels("selector=zoo", f"budget={budget}") == expected


@pytest.mark.parametrize(
    ("budget", "expected"),
    [("<=64", ["<=64"]), ("'<=64'", ["<=64"]), ("[<=64,<=32/tile]", ["<=64", "<=32/tile"]),
     ("[<=64, 32/tile,11.1%:down]", ["<=64", "32/tile", "0.111:down"]), ("[16,<= 9]", ["16", "<=9"])],
)  # fmt: skip
def test_at_most_needs_no_quotes_of_its_own(budget, expected):
    """A shell eats the quotes of budget='<=64'."""
    arms = compose(["selector=zoo", f"budget={budget}"]).arms
    assert [str(arm.budget) for arm in arms] == expected


@pytest.mark.parametrize("key", ["selector.budgets=[<=7]", "+selector.budgets=[ <=7 ]"])
def test_at_most_needs_no_quotes_among_an_arms_budgets(key):
    assert labels("selector=zoo", key) == ["zoo multiply @<=7"]
    assert labels("+arms=[{selector: zoo, budgets: [<=7,5]}]") == ["zoo @<=7", "zoo @5"]


def test_a_path_from_the_home_folder_needs_no_quotes_of_its_own(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert compose(["selector=full", "out=~/my runs/new"]).out == tmp_path / "my runs" / "new"
    assert compose(["selector=full", "out=~"]).out == tmp_path
    assert compose(["selector=full", "data.root='~/a'"]).data.root == "~/a"


def test_quoted_text_is_left_as_it_is():
    text = "does [<=64, <=32] help, or =<=8, or =~/a"
    assert compose(["selector=full", f"question='{text}'"]).question == text
    assert compose(["selector=full", f'question="{text}"']).question == text


def test_what_a_budget_above_n_suggests_can_be_typed_in_a_shell():
    with pytest.raises(InvalidValueError) as caught:
        compose(["selector=zoo", "budget=200"])
    (typed,) = re.findall(r"budget='[^']*'", str(caught.value))
    (word,) = shlex.split(typed)
    assert labels("selector=zoo", word) == ["zoo multiply @<=200"]


def test_budget_replaces_an_arms_own_budgets_too():
    own = "+arms=[{selector: zoo, budgets: [9]}, {selector: full}]"
    assert labels(own) == ["zoo @9", "full"]
    assert labels(own, "budget=5") == ["zoo @5", "full"]


def test_selector_replaces_the_arms():
    assert labels("+exp=ablation_fusion", "selector=divprune", "budget=16") == ["divprune @16"]
    assert labels("selector=[full,zoo]", "budget=16") == ["full", "zoo multiply @16"]


def test_selector_options_go_to_the_selector():
    options = ["+selector.options.fusion=sum", "selector.options.n_directions=16"]
    assert labels("selector=zoo", *options, "budget=9") == ["zoo sum n_directions=16 @9"]


def test_selectors_with_a_file_bring_their_settings():
    assert labels("selector=random", "budget=16") == [f"random @16 seed {seed}" for seed in range(3)]
    assert labels("selector=random", "selector.seeds=1", "budget=16") == ["random @16"]


def test_task_replaces_the_tasks_by_name_by_list_or_by_set():
    def tasks(value):
        return compose(["selector=full", f"task={value}"]).tasks

    assert tasks("embedded_pope") == ("embedded_pope",)
    assert tasks("[embedded_pope,embedded_mme]") == ("embedded_pope", "embedded_mme")
    assert len(tasks("nine")) == 9
    assert len(tasks("eight")) == 8


@pytest.mark.parametrize(
    ("overrides", "error", "words"),
    [
        (["bugdet=64"], UnknownNameError, ["config key 'bugdet'", "Did you mean 'budget'?"]),
        (["+bugdet=64"], UnknownNameError, ["Did you mean 'budget'?"]),
        (["model.bach_size=2"], UnknownNameError, ["Did you mean 'model.batch_size'?"]),
        (["seed.x=2"], UnknownNameError, ["seed is a value"]),
        (["budgets=16"], InvalidValueError, ["budgets=16: give a list", "one budget is budget=64"]),
        (["tasks=gqa"], InvalidValueError, ["tasks=gqa: give a list", "one task is task=NAME"]),
        (["limit=abc"], InvalidValueError, ["limit=abc: give a whole number or null"]),
        (["limit=[1]"], InvalidValueError, ["limit=[1]: give a whole number or null"]),
        (["fresh=maybe"], InvalidValueError, ["fresh=maybe: give true or false"]),
        (["model.zoo=3"], InvalidValueError, ["model.zoo=3: give a mapping"]),
        (["out=[1,2]"], InvalidValueError, ["out=[1, 2]: give a text"]),
        (["selector=zoo", "selector.seeds=x"], InvalidValueError, ["selector.seeds=x: give a whole number"]),
        (["trainer=gpu"], UnknownNameError, ["trainer=default uses a GPU", "trainer.accelerator=gpu"]),
        (["model=llava15_7"], UnknownNameError, ["model 'llava15_7'", "'llava15_7b'", "list models"]),
        (["+exp=ablation_fuson"], UnknownNameError, ["experiment", "'ablation_fusion'", "list exps"]),
        (["selector=zo"], UnknownNameError, ["selector 'zo'", "'zoo'"]),
        (["selector=full", "task=embeded_pope"], UnknownNameError, ["task", "'embedded_pope'"]),
        (["selector=zoo", "selector.options.fuson=sum"], UnknownNameError, ["'fuson'", "'fusion'"]),
        (["selector=zoo", "selector.fusion=sum"], UnknownNameError, ["selector.options.fusion"]),
        (
            ["selector=zoo", "selector.option.fusion=sum"],
            UnknownNameError,
            ["Did you mean 'selector.options.fusion'?"],
        ),
        (
            ["selector=[full,zoo]", "selector.options.fusin=sum"],
            UnknownNameError,
            ["Did you mean 'fusion'?", "zoo has", "n_directions", "full has newline", "list selectors zoo"],
        ),
        (
            ["selector=[full,zoo]", "selector.options.M=-3"],
            UnknownNameError,
            ["'M'. zoo has", "n_directions"],
        ),
        (["selector=zoo", "selector.options.fusion=mulitply"], InvalidValueError, ["mulitply", "multiply"]),
        (["selector.options.fusion=sum"], InvalidValueError, ["selector=NAME"]),
        (["selector=zoo", "budget=0"], InvalidValueError, ["budget 0"]),
        (["selector=zoo", "budget=-4"], InvalidValueError, ["budget -4"]),
        (["selector=zoo", "budget=many"], InvalidValueError, ["'many'"]),
        (["selector=zoo", "budget=145"], InvalidValueError, ["145", "144"]),
        (["selector=zoo", "budget=[]"], InvalidValueError, ["budget=[]"]),
        (["selector=zoo", "budget=null"], InvalidValueError, ["budget=null"]),
        (["selector=full", "selector.budgets=[3]"], InvalidValueError, ["takes no budget"]),
        (["selector=divprune", "selector.seeds=2"], InvalidValueError, ["seeds=2", "is deterministic"]),
        (["selector=[full,full]"], InvalidValueError, ["'full' is listed twice"]),
        (["selector=full", "task=[gqa,gqa]"], InvalidValueError, ["'gqa' is listed twice"]),
        (["selector=full", "seed=-1"], InvalidValueError, ["seed=-1", "between 0"]),
        (["selector=full", "limit=0"], InvalidValueError, ["limit=0", "between 1"]),
        (["selector=full", "limit=some"], InvalidValueError, ["limit=some", "a whole number"]),
        (["selector=full", "model.dtype=float8"], InvalidValueError, ["model.dtype=float8", "bfloat16"]),
        (["selector=full", "data=folder"], InvalidValueError, ["data.root"]),
        ([], InvalidValueError, ["has no arms", "+exp=NAME"]),
        (["budget"], InvalidValueError, ["'budget' is not key=value"]),
        (["ablation_fusion"], InvalidValueError, ["'ablation_fusion'", "type +exp=ablation_fusion"]),
        (["ablation_fuson"], InvalidValueError, ["'ablation_fuson'", "did you mean +exp=ablation_fusion?"]),
        (["llava15_7b"], InvalidValueError, ["type model=llava15_7b"]),
        (["divprune"], InvalidValueError, ["type selector=divprune"]),
        (["zoo_closed_form"], InvalidValueError, ["type selector=zoo_closed_form"]),
        (["embedded_pope"], InvalidValueError, ["type task=embedded_pope"]),
        (["+exp", "ablation_fusion"], InvalidValueError, ["'+exp' is not key=value", "type exp=VALUE"]),
        (["qqqqqq"], InvalidValueError, ["'qqqqqq' is not key=value", "budget=64"]),
        (
            ["selector=zoo_closed", "budget=9"],
            UnknownNameError,
            ["Did you mean 'zoo_closed_form'?", "zoo_closed_form, zoo_diagonal. List"],
        ),
        (["~seed"], InvalidValueError, ["seed=null"]),
        (["a@b=1"], InvalidValueError, ["'a@b=1'"]),
        (["model=[embedded]"], InvalidValueError, ["one name is expected"]),
        (["+arms=[{selecter: zoo}]"], UnknownNameError, ["arms[0].selecter", "arms[0].selector"]),
        (["+arms=[{options: {}}]"], InvalidValueError, ["selector"]),
    ],
)
def test_bad_input_is_named(overrides, error, words):
    with pytest.raises(error) as caught:
        compose(overrides)
    for word in words:
        assert word in str(caught.value)


def test_several_problems_are_reported_together():
    with pytest.raises(InvalidValueError) as caught:
        compose(["model=embeded", "bugdet=3"])
    assert "'embedded'" in str(caught.value)
    assert "'budget'" in str(caught.value)


@pytest.fixture
def own(tmp_path):
    (tmp_path / "exp").mkdir()

    def write(text):
        (tmp_path / "exp" / "mine.yaml").write_text(text)
        return compose(["+exp=mine"], [tmp_path])

    write.folders = [tmp_path]
    return write


def test_a_config_folder_of_the_user(own):
    experiment = own("defaults:\n  - override /model: llava15_7b\narms:\n  - {selector: zoo, label: ours}\n")
    assert experiment.model.name == "llava15_7b"
    assert [arm.label for arm in experiment.arms] == ["ours @192", "ours @128", "ours @64"]


def test_a_bare_name_from_a_config_folder_of_the_user(own):
    own("arms: [{selector: full}]\n")
    (folder,) = own.folders
    with pytest.raises(InvalidValueError, match=r"type \+exp=mine"):
        compose(["mine"], [folder])


def test_a_typo_in_a_file_is_found_with_its_line(own):
    with pytest.raises(UnknownNameError, match=r"arms\[0\].optoins.*'arms\[0\].options'.*mine.yaml, line 3"):
        own("name: mine\narms:\n  - {selector: zoo, optoins: {fusion: sum}}\n")


@pytest.mark.parametrize("text", ["a: [1", "- a\n- b\n", "name: ${nowhere}\n"])
def test_an_invalid_file_is_named(own, text):
    with pytest.raises(ZooExpError, match=r"mine\.yaml|nowhere"):
        own(text)


def test_two_arms_with_one_label_are_refused(own):
    with pytest.raises(InvalidValueError, match="'same @48' is the label of two different arms"):
        own("arms:\n  - {selector: zoo, label: same}\n  - {selector: divprune, label: same}\n")


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(MissingFileError, match="nowhere"):
        compose(["selector=full"], [tmp_path / "nowhere"])


def test_the_substitute_for_clip_is_in_the_name():
    """Relevance from the language model's embeddings is another method than the released CDPruner."""
    assert labels("selector=cdpruner", "budget=5") == ["cdpruner llm_embeddings @5"]
    assert labels("selector=cdpruner", "selector.options.relevance=clip", "budget=5") == ["cdpruner clip @5"]


def test_arms_may_name_a_selector_configuration(tmp_path):
    (tmp_path / "exp").mkdir()
    text = "arms: [{selector: zoo_closed_form, options: {fusion: sum}}]\ntasks: [gqa]\nbudgets: [16]\n"
    (tmp_path / "exp" / "mine.yaml").write_text(text)
    (arm,) = compose(["+exp=mine", "model=embedded"], [tmp_path]).arms
    typed = [
        "selector=zoo_closed_form",
        "selector.options.fusion=sum",
        "task=gqa",
        "budget=16",
        "model=embedded",
    ]
    (other,) = compose(typed).arms
    assert arm == other
    assert arm.selector == "zoo"


def test_a_model_family_without_an_adapter_is_refused():
    with pytest.raises(UnknownNameError, match=r"unknown model type 'llavva'. Did you mean 'llava'"):
        compose(["model=embedded", "model.family=llavva", "task=gqa", "selector=full"])


def test_repetitions_of_random_factors_count_their_seed():
    """One row of five draws, so that a table shows their spread."""
    arm = (
        "+arms=[{selector: zoo, options: {projector: low_rank_as_released, rank: 4}, budgets: [5], seeds: 5}]"
    )
    arms = compose([arm]).arms
    assert [a.options["factor_seed"] for a in arms] == [0, 1, 2, 3, 4]
    assert {a.row for a in arms} == {"zoo low_rank_as_released rank=4 @5"}
    assert len({a.id for a in arms}) == 5
    exact = arm.replace("rank: 4", "rank: 4, estimator: closed_form")
    assert len(compose([exact]).arms) == 5
    fixed = compose([arm.replace("rank: 4", "rank: 4, factor_seed: 7")]).arms
    assert [a.options["factor_seed"] for a in fixed] == [7] * 5


def test_zoo_uses_the_models_protocol_by_default(tmp_path):
    def zoo(*arms):
        return [
            a.options for a in compose([f"+arms=[{','.join(arms)}]", "model=llava_next_7b", "budget=9"]).arms
        ]

    low_rank = {"projector": "low_rank", "rank": 128}
    assert zoo("{selector: zoo}", "{selector: divprune}") == [low_rank, {}]
    assert zoo("{selector: zoo, options: {rank: 64, estimator: closed_form}}") == [
        {**low_rank, "rank": 64, "estimator": "closed_form"}
    ]
    for other in ({"projector": "full"}, {"projector": "low_rank_as_released"}):
        assert zoo(f"{{selector: zoo, options: {{projector: {other['projector']}}}}}") == [
            {**low_rank, **other}
        ]
    for without in ("fusion: diversity", "estimator: feature_norm", "layer: 3"):
        (options,) = zoo(f"{{selector: zoo, options: {{{without}}}}}")
        assert "projector" not in options


def test_duplicate_arms_under_another_name_are_omitted():
    arms = "+arms=[{selector: zoo, seeds: 2}, {selector: zoo, label: other}]"
    assert labels(arms, "budget=9") == ["zoo @9 seed 0", "zoo @9 seed 1"]
    with pytest.raises(InvalidValueError, match="arm 'more @9 seed 0' is listed twice"):
        labels(arms.replace("label: other", "label: more, seeds: 3"), "budget=9")


def test_a_layer_selector_refuses_budgets_per_tile():
    with pytest.raises(InvalidValueError, match="selectors do not support budgets per tile"):
        compose(["selector=fastv", "model=llava_next_7b"])


def test_a_budget_per_frame_is_refused_where_tasks_have_images():
    with pytest.raises(InvalidValueError, match="an image has no frames: give 16"):
        compose(["selector=zoo", "budget=16/frame"])


def test_the_family_of_any_checkpoint_is_read_from_its_config(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "qwen3_vl"}')
    found = compose(["model=hub", f"model.path={tmp_path}", "task=gqa", "selector=full"]).model
    assert found.family == "qwen3_vl"
    (tmp_path / "config.json").write_text('{"model_type": "instructblip"}')
    with pytest.raises(InvalidValueError, match=r"'instructblip' cannot be pruned: it is a Q-Former model"):
        compose(["model=hub", f"model.path={tmp_path}", "task=gqa", "selector=full"])
    with pytest.raises(InvalidValueError, match=r"model\.path"):
        compose(["model=hub", "task=gqa", "selector=full"])
    with pytest.raises(MissingFileError, match=r"no config\.json"):
        compose(["model=hub", f"model.path={tmp_path.parent}", "task=gqa", "selector=full"])


def test_composing_again_gives_the_same_and_no_value_stays():
    texts = ["selector=[zoo]", "budget=16", "limit=3"]
    first = compose(texts)
    other = compose(["selector=[zoo]", "budget=16", "limit=5", "model.batch_size=7", "trainer.threads=2"])
    assert (other.limit, other.model.batch_size, other.trainer.threads) == (5, 7, 2)
    other.model.budgets.append(1)
    assert compose(texts) == first


def test_an_edited_file_is_read_again(tmp_path, monkeypatch):
    copied = shutil.copytree(folders.built_in(), tmp_path / "configs")
    monkeypatch.setattr(folders, "built_in", lambda: copied)
    assert compose(["selector=[full]"]).seed == 0
    path = copied / "config.yaml"
    path.write_text(path.read_text().replace("seed: 0", "seed: 12"))
    assert compose(["selector=[full]"]).seed == 12


def test_a_wrong_number_of_repetitions_is_one_line():
    """Without arms that can be built, nothing else is said about them."""
    with pytest.raises(InvalidValueError) as caught:
        compose(["selector=[zoo,random]", "budget=16", "selector.seeds=0"])
    assert str(caught.value) == "selector.seeds=0: it must be between 1 and 2147483647"


def test_an_unknown_task_gets_a_short_list_of_what_list_tasks_shows():
    with pytest.raises(UnknownNameError, match=r"Did you mean 'world2_gqa'\?") as caught:
        compose(["selector=full", "task=word2_gqa"])
    assert len(str(caught.value)) < 700
    assert "_confirm" not in str(caught.value)
    with pytest.raises(UnknownNameError, match=r"Did you mean 'nine'\? Available: nine, "):
        compose(["selector=full", "task=nin"])


def test_options_of_a_selector_may_be_one_mapping():
    assert (
        compose(["selector=zoo", "budget=16", "selector.options={fusion: sum}"]).arms[0].label
        == "zoo sum @16"
    )
    with pytest.raises(InvalidValueError, match=r"give selector.options.KEY=VALUE"):
        compose(["selector=zoo", "budget=16", "selector.options=sum"])


def test_arms_are_counted_as_rows_of_the_table():
    arms = compose(["selector=random", "budget=[32,16]", "selector.seeds=3"]).arms
    assert arms_text(arms) == "2 arms with 4 more seeds"
    assert arms_text(arms[:1]) == "1 arm"
