"""Training on world 2: plans, checkpoints, resuming with the same result, bad input."""

import contextlib
import json
import random
from dataclasses import asdict, fields, replace

import pytest
import torch
from safetensors import safe_open

from zoo_exp.embedded.shipped import PROMPTS_FLAG, WORLD_FLAG
from zoo_exp.embedded.world2 import commands, trainer
from zoo_exp.embedded.world2.asking import FAMILIES_2
from zoo_exp.embedded.world2.layout import make_scene_2
from zoo_exp.embedded.world2.learners import LlavaLearner, answer_rows
from zoo_exp.embedded.world2.plan import Plan, plan_for, plan_lines
from zoo_exp.embedded.world2.question_packs import pack_questions
from zoo_exp.embedded.world2.train import load_start, make_learner, save_model
from zoo_exp.embedded.world2.trainer import CHECKPOINT, PREVIOUS, Training
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError

SMALL = {
    **{"dense_steps": 2, "joint_steps": 4, "deepen_at": 2, "dense_images": 4, "images": 2, "text_length": 64},
    **{"questions": 8, "warmup": 1, "heads_first": 1},
}


@pytest.fixture(autouse=True)
def often(monkeypatch):
    monkeypatch.setattr(trainer, "EVERY", 1)


def train(out, steps=None, **changes):
    """Train a small plan; `steps` stops it early, as a kill would."""
    training = Training(LlavaLearner(plan_for("embedded", **{**SMALL, **changes})), out)
    stop = KeyboardInterrupt()

    def advance(step, line):
        if step == steps:
            raise stop

    with contextlib.suppress(KeyboardInterrupt):
        training.run(advance)
    return training


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(trainer, "EVERY", 1)
    out = tmp_path_factory.mktemp("whole")
    yield train(out)
    patch.undo()


@pytest.mark.parametrize("stop", [1, 3, 4, 5])
def test_a_stopped_run_ends_at_the_same_bits(whole, tmp_path, stop):
    """Stopped in the dense stage, in the joint stage, at the deepening and behind it."""
    stopped = train(tmp_path, stop)
    assert stopped.step == stop
    resumed = train(tmp_path)
    assert resumed.step == whole.plan.steps
    for expected, found in (
        (whole.learner.state_dict(), resumed.learner.state_dict()),
        (whole.averaged().state_dict(), resumed.averaged().state_dict()),
    ):
        assert expected.keys() == found.keys()
        assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_what_is_saved_is_the_average_of_the_weights(tmp_path):
    """Two steps by hand: the first keeps a tenth of the start, the second two elevenths of the average."""
    name = "model.lm_head.weight"
    learner = LlavaLearner(
        plan_for("embedded", **{**SMALL, "dense_steps": 0, "joint_steps": 2, "deepen_at": -1})
    )
    weights = [learner.get_parameter(name).detach().clone()]
    training = Training(learner, tmp_path)
    training.run(lambda step, line: weights.append(learner.get_parameter(name).detach().clone()))
    first = weights[1]  # the average starts at the first step's weights
    second = 2 / 11 * first + 9 / 11 * weights[2]
    torch.testing.assert_close(training.averaged().get_parameter(name), second)
    assert training.averaged().heads is learner.heads


def test_the_decoder_doubles_and_stays_the_same_function():
    from zoo_exp.embedded.world2.builders import deepen, make_llava

    model = make_llava(0).eval()
    ids = torch.randint(5, 100, (1, 12))
    with torch.no_grad():
        before = model(input_ids=ids).logits
        deepen(model)
        after = model(input_ids=ids).logits
    assert len(model.model.language_model.layers) == model.config.text_config.num_hidden_layers == 8
    torch.testing.assert_close(after, before)


def test_the_encoder_waits_for_the_heads_and_stands_still_in_the_joint_stage(tmp_path):
    learner = LlavaLearner(plan_for("embedded", **SMALL, encoder_pace=0.0))
    name = "model.model.vision_tower.encoder.layers.0.mlp.fc1.weight"
    weights = [learner.get_parameter(name).detach().clone()]
    training = Training(learner, tmp_path)
    training.run(lambda step, line: weights.append(learner.get_parameter(name).detach().clone()))
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[1], weights[2])
    assert all(torch.equal(weights[2], later) for later in weights[3:])


def test_a_torn_checkpoint_falls_back_to_the_one_before(whole, tmp_path):
    train(tmp_path, 4)
    path = tmp_path / CHECKPOINT
    path.write_bytes(path.read_bytes()[:1000])
    resumed = train(tmp_path)
    assert all(
        torch.equal(value, resumed.learner.state_dict()[name])
        for name, value in whole.learner.state_dict().items()
    )


def test_torn_checkpoints_only_are_refused(tmp_path):
    for name in (CHECKPOINT, PREVIOUS):
        (tmp_path / name).write_bytes(b"torn")
    with pytest.raises(
        InvalidValueError, match=r"checkpoint\.safetensors and checkpoint\.previous\.safetensors"
    ):
        train(tmp_path)


def test_another_plan_is_refused_by_what_differs(tmp_path):
    train(tmp_path, 3)
    with pytest.raises(InvalidValueError, match="images: 2 there, 3 asked for"):
        train(tmp_path, images=3)
    with pytest.raises(InvalidValueError, match="dense_steps: 2 there, 1 asked for"):
        train(tmp_path, dense_steps=1)


def test_a_longer_joint_stage_may_go_on_before_the_decay(tmp_path):
    plain = {"decay_share": 0.1, "align_weight": 0.0}
    train(tmp_path, 3, **plain)
    assert train(tmp_path, 4, **plain, joint_steps=6).step == 4


@pytest.mark.parametrize("header", [{"world": "1"}, {}])
def test_a_checkpoint_of_another_world_is_refused_by_name(tmp_path, header):
    from safetensors.torch import save_file

    train(tmp_path, 1)
    with safe_open(tmp_path / CHECKPOINT, "pt") as file:
        tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        kept = {key: value for key, value in file.metadata().items() if key != "world"}
    save_file(tensors, tmp_path / CHECKPOINT, metadata={**kept, **header})
    with pytest.raises(InvalidValueError, match=f"world {header.get('world', 'unknown')}, .* on world 2"):
        train(tmp_path)


def test_a_header_without_a_plan_is_refused(tmp_path):
    from safetensors.torch import save_file

    save_file({"weights.x": torch.zeros(1)}, tmp_path / CHECKPOINT, metadata={"world": "2", "plan": "{"})
    with pytest.raises(InvalidValueError, match="header has no plan"):
        train(tmp_path)


def test_answers_are_learnt_where_questions_end():
    learner = LlavaLearner(plan_for("embedded", **SMALL))

    scenes, seeds = learner.scenes(0, 2, 96, 96)
    text = pack_questions(scenes, seeds, 64, 8)
    rows = answer_rows(text)
    assert (text.target.gather(1, rows) != -100).sum() == (text.target != -100).sum()
    assert (text.family >= 0).sum() == (text.target != -100).sum() / 2  # the answer, and the end mark


def test_thinned_batches_keep_order_and_places():
    learner = LlavaLearner(plan_for("embedded", **SMALL, drop_share=1.0, original_share=1.0))
    visual = torch.arange(144.0).repeat(3, 1)[..., None]
    for step in range(6):
        kept, places, gap = learner.thin(visual, step)
        assert 4 <= kept.shape[1] <= 144
        assert torch.equal(kept[..., 0].long(), places)
        assert (places.diff(dim=1) > 0).all()
        assert gap == 144 - kept.shape[1]


def test_saved_models_say_their_world_and_prompts(tmp_path):
    save_model(LlavaLearner(plan_for("embedded", **SMALL)), tmp_path / "model")
    config = json.loads((tmp_path / "model" / "config.json").read_text())
    assert (config[WORLD_FLAG], config[PROMPTS_FLAG]) == (2, "embedded")
    assert load_start(str(tmp_path / "model"), "embedded_next").config.model_type == "llava"
    learner = make_learner(plan_for("embedded_next"), str(tmp_path / "model"))
    assert learner.model.config.model_type == "llava_next"


def test_a_start_of_another_world_or_kind_is_refused(tmp_path):
    from zoo_exp.embedded.shipped import shipped_folder

    with pytest.raises(InvalidValueError, match="model of world 1; this training is on world 2"):
        load_start(str(shipped_folder("embedded_world1")), "embedded")
    with pytest.raises(MissingFileError, match=r"no config\.json there"):
        load_start(str(tmp_path), "embedded")
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(InvalidValueError, match="no JSON"):
        load_start(str(tmp_path), "embedded")
    (tmp_path / "config.json").write_text(json.dumps({WORLD_FLAG: 2, "model_type": "llava_next"}))
    with pytest.raises(InvalidValueError, match="embedded_qwen starts from a qwen2_5_vl or a llava"):
        load_start(str(tmp_path), "embedded_qwen")


@pytest.mark.parametrize(
    ("overrides", "error", "match"),
    [
        (["model"], InvalidValueError, "not key=value"),
        (["model=embeded"], UnknownNameError, "Did you mean 'embedded'"),
        (["images=a"], InvalidValueError, "images takes an integer"),
        (["imgaes=3"], UnknownNameError, "Did you mean 'images'"),
        (["images=-1"], InvalidValueError, "images is -1"),
        (["drop_share=2"], InvalidValueError, "share from 0 to 1"),
        (["threads=0"], InvalidValueError, "threads=0"),
        (["device=gpu7"], InvalidValueError, "device=gpu7 cannot be used"),
    ],
)
def test_bad_settings_are_named(overrides, error, match):
    with pytest.raises(error, match=match):
        commands.train(overrides, None)


def test_the_command_trains_saves_reports_and_resumes(tmp_path, capsys):
    small = {**SMALL, "dense_steps": 1, "joint_steps": 1, "deepen_at": -1}
    overrides = ["model=embedded", f"out={tmp_path}", "rows=2", *(f"{k}={v}" for k, v in small.items())]
    assert commands.train(overrides, None) == 0
    printed = capsys.readouterr().out
    assert "weights:" in printed
    assert "mmmu" in printed
    report = json.loads((tmp_path / "accuracy.json").read_text())
    assert set(report) == {"full", "blind", "random@4"}
    assert report["full"]["gqa"]["n"] == 2
    assert (tmp_path / "weights" / "processor_config.json").is_file()
    assert commands.train(overrides, None) == 0
    assert "resumed at step 2 of 2" in " ".join(capsys.readouterr().out.split())
    assert commands.train([*overrides, f"export={tmp_path / 'packed'}"], None) == 0
    assert "weights of step 2 of 2" in " ".join(capsys.readouterr().out.split())
    first, second = (tmp_path / name / "model.safetensors" for name in ("weights", "packed"))
    assert first.read_bytes() == second.read_bytes()


def test_easy_questions_are_asked_less():
    """`easy_share`: of easy questions a share stays, of hard ones all; 1 draws nothing for it."""
    scenes = [make_scene_2("train", index, 96, 96) for index in range(8)]
    seeds = [f"easy/{index}" for index in range(8)]
    usual = pack_questions(scenes, seeds, 2048, 60)
    same = pack_questions(scenes, seeds, 2048, 60, easy_share=1.0)
    assert torch.equal(usual.ids, same.ids)
    hard = pack_questions(scenes, seeds, 2048, 60, easy_share=0.0)
    names = list(FAMILIES_2)
    asked = {names[number] for number in hard.family[hard.family >= 0]}
    assert asked <= {"gqa", "vqav2", "seedbench", "mme", "mmmu"}
    assert 0 < (hard.family >= 0).sum() < (usual.family >= 0).sum()


def test_every_number_of_a_plan_has_its_meaning_in_the_help():
    lines = plan_lines().splitlines()
    assert [line.split("=")[0].strip() for line in lines] == [
        field.name for field in fields(Plan) if field.name != "model"
    ]
    assert all(len(line.split("  ", 2)[2].strip()) > 10 for line in lines)


def test_few_tokens_are_drawn_more_often_by_a_higher_power():
    """Half of the draws lie below 0.5 ** power of the tokens; the ends stay where they are."""
    for power in (1.0, 3.0):
        plan = plan_for("embedded", **SMALL, drop_share=1.0, few_power=power)
        learner = LlavaLearner(plan)
        counts = [learner.few(random.Random(f"few/{step}"), 144) for step in range(400)]
        assert min(counts) >= 4
        assert max(counts) <= 144
        below = sum(count < 4 + 140 * 0.5**power for count in counts)
        assert 160 < below < 240


def test_a_checkpoint_from_before_a_number_existed_is_resumed(tmp_path):
    """A missing number stands at its default; another value than that is another plan."""
    plan = plan_for("embedded", **SMALL)
    old = {key: value for key, value in asdict(plan).items() if key not in ("easy_share", "few_power")}
    header = {"world": "2", "step": "1", "plan": json.dumps(old)}
    trainer.check_header(tmp_path, header, plan)
    with pytest.raises(InvalidValueError, match=r"easy_share: 1\.0 there, 0\.5 asked for"):
        trainer.check_header(tmp_path, header, replace(plan, easy_share=0.5))
    with pytest.raises(InvalidValueError, match="no plan or step"):
        trainer.check_header(tmp_path, header | {"plan": "3"}, plan)
