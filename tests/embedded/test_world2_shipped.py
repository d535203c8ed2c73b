"""The weights of world 2 that ship: they answer, say what they are, and keeping every token changes nothing."""

import json

import pytest
import torch
from PIL import Image

import zoo_exp
from zoo_exp import tasks
from zoo_exp.config.schema import ModelConfig
from zoo_exp.embedded.shipped import PROMPTS_FLAG, WORLD_FLAG, is_shipped, prompts_of, shipped_folder
from zoo_exp.embedded.world2.layout import make_scene_2
from zoo_exp.embedded.world2.learners import LlavaLearner
from zoo_exp.embedded.world2.plan import plan_for
from zoo_exp.embedded.world2.qwen import QwenLearner
from zoo_exp.embedded.world2.scores import keep_all, keep_none, measure
from zoo_exp.embedded.world2.tiles import NextLearner
from zoo_exp.errors import MissingFileError, UnknownNameError
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.loading import load_model
from zoo_exp.tasks import data

FEW = {
    "embedded": ("world2", "4"),
    "embedded_next": ("world2_tiles", "2/tile"),
    "embedded_qwen": ("world2_sizes", "10%"),
}
"""View and smallest budget of a model's studies."""
LEARNERS = {"embedded": LlavaLearner, "embedded_next": NextLearner, "embedded_qwen": QwenLearner}


@pytest.fixture(scope="module")
def loaded():
    return load_model("embedded", dtype="float32")


@pytest.mark.parametrize("name", LEARNERS)
def test_it_answers_held_out_questions_and_not_blindly(name):
    """Blind answers are guesses of an answer: neither right by chance in most cases, nor words of another kind."""
    learner = LEARNERS[name](plan_for(name), load_model(name, dtype="float32").model)
    result = measure(learner, {"full": keep_all, "blind": keep_none}, "confirm", rows=12)
    assert result["full"].average() > 0.8
    assert 0.2 < result["blind"].average() < 0.5


@torch.no_grad()
@pytest.mark.parametrize("selector", ["divprune", "zoo_diagonal", "random"])
@pytest.mark.parametrize("name", FEW)
def test_few_tokens_give_wrong_answers_but_no_other_words(name, selector):
    """A model that was not trained on few tokens answers with any word, more often the more diverse they are."""
    view, budget = FEW[name]
    task, loaded = tasks.get(f"{view}_pope"), load_model(name, dtype="float32")
    rows = list(data.load(task, limit=20))
    inputs = chat_inputs(loaded.processor, [user_turn(task.content(row, "embedded")) for row in rows])
    with zoo_exp.pruned(loaded.model, selector, budget=budget):
        out = loaded.model.generate(**inputs, max_new_tokens=1, do_sample=False)
    words = loaded.processor.tokenizer.batch_decode(out[:, -1:])
    parts = [task.score(row, word) for row, word in zip(rows, words, strict=True)]
    assert sum(part.get("unreadable", False) for part in parts) <= 1
    assert len({part["prediction"] for part in parts}) > 1


@torch.no_grad()
def test_keeping_every_token_is_the_stock_model(loaded):
    scene = make_scene_2("confirm", 1)
    inputs = chat_inputs(
        loaded.processor, [user_turn([Image.fromarray(scene.pixels), "How many circle objects?"])]
    )
    options = {
        "max_new_tokens": 2,
        "do_sample": False,
        "output_logits": True,
        "return_dict_in_generate": True,
    }
    stock = loaded.model.generate(**inputs, **options)
    with zoo_exp.pruned(loaded.model, "zoo", budget="100%"):
        kept = loaded.model.generate(**inputs, **options)
    assert torch.equal(stock.logits[0], kept.logits[0])
    assert torch.equal(stock.sequences, kept.sequences)


@pytest.mark.parametrize(("name", "layers"), [("embedded", 8), ("embedded_next", 9), ("embedded_qwen", 9)])
def test_the_checkpoint_says_its_world_and_prompts_and_is_small(name, layers):
    folder = shipped_folder(name)
    config = json.loads((folder / "config.json").read_text())
    assert (config[WORLD_FLAG], config[PROMPTS_FLAG]) == (2, "embedded")
    assert config["text_config"]["num_hidden_layers"] == layers
    assert sum(path.stat().st_size for path in folder.iterdir()) < 15 * 2**20


def test_a_copy_in_a_folder_asks_for_the_same_prompts(tmp_path):
    """Prompts are chosen by the checkpoint's flag or the configuration's, not by the name of the model."""
    (tmp_path / "config.json").write_text((shipped_folder("embedded") / "config.json").read_text())
    assert prompts_of(str(tmp_path)) == "embedded"
    config = ModelConfig(name="copy", family="llava", path=str(tmp_path))
    assert config.prompt_family == "embedded"
    (tmp_path / "config.json").write_text('{"model_type": "llava"}')
    assert prompts_of(str(tmp_path)) is None
    plain = ModelConfig(name="copy", family="llava", path=str(tmp_path))
    assert plain.prompt_family == "llava"
    assert (
        ModelConfig(name="copy", family="llava", path=str(tmp_path), prompts="embedded").prompt_family
        == "embedded"
    )


def test_names_of_shipped_models(monkeypatch, tmp_path):
    from zoo_exp.embedded import shipped

    assert is_shipped("embedded")
    assert not is_shipped("llava")
    with pytest.raises(UnknownNameError, match="Did you mean 'embedded_next'"):
        shipped_folder("embeded_next")
    monkeypatch.setattr(shipped, "ROOM", tmp_path)
    with pytest.raises(MissingFileError, match="embedded train model=embedded_next"):
        shipped_folder("embedded_next")
