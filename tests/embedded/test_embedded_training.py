"""Training: the packed forward is the stock one, batches are functions of the step, a stopped run goes on."""

import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from zoo_exp.embedded import cli, model
from zoo_exp.embedded.objectives import PatchObjectives
from zoo_exp.embedded.optimisers import BatchedMuon, make_optimisers
from zoo_exp.embedded.packed_forward import PREFIX_TEXT, text_forward, vision_forward
from zoo_exp.embedded.packing import NO_TARGET, make_batch
from zoo_exp.embedded.recipe import EPOCH, Recipe
from zoo_exp.embedded.training import SceneStream
from zoo_exp.embedded.vocabulary import IMAGE, TOKEN_ID
from zoo_exp.errors import InvalidValueError, MissingFileError


@pytest.fixture(scope="module")
def vlm():
    return model.make_model(seed=1).eval()


@pytest.fixture(scope="module")
def batch():
    return make_batch("train", range(3), 96, 12)


def test_a_seed_is_a_model():
    one, same, other = (model.make_model(seed).lm_head.weight for seed in (3, 3, 4))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_vision_forward_equals_the_stock_tower(vlm, batch):
    features, pooled = vision_forward(vlm.model.vision_tower, batch.pixels)
    stock = vlm.model.vision_tower(batch.pixels, output_hidden_states=True)
    torch.testing.assert_close(features, stock.hidden_states[-2][:, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(pooled, stock.pooler_output, atol=1e-5, rtol=1e-5)


def test_text_forward_equals_the_stock_model_question_by_question(vlm, batch):
    """Packing changes nothing: each question alone behind the image, through the stock classes."""
    inner = vlm.model
    features, _ = vision_forward(inner.vision_tower, batch.pixels)
    projected = inner.multi_modal_projector(features)
    hidden = text_forward(inner.language_model, projected, batch.ids, batch.segment, batch.position, shift=0)
    logits = vlm.lm_head(hidden)
    for row in range(2):
        for question in (1, 3):
            mine = batch.segment[row] == question
            prefix = [*PREFIX_TEXT, *[TOKEN_ID[IMAGE]] * projected.shape[1]]
            ids = torch.tensor([[*prefix, *batch.ids[row][mine].tolist()]])
            stock = vlm(input_ids=ids, pixel_values=batch.pixels[row : row + 1]).logits[0, len(prefix) :]
            torch.testing.assert_close(logits[row][mine], stock, atol=1e-4, rtol=1e-4)


def test_targets_are_the_answers_next_tokens(batch):
    for row in range(3):
        for place in (batch.target[row] != NO_TARGET).nonzero().flatten().tolist():
            following = place + 1
            same = following < 96 and batch.segment[row, following] == batch.segment[row, place]
            if same:
                assert batch.target[row, place] == batch.ids[row, following]
            else:
                assert batch.target[row, place] == TOKEN_ID["</s>"]


def test_batches_are_functions_of_step_and_rank_so_a_resumed_run_sees_the_same():
    recipe = Recipe(dense_steps=2, frozen_steps=2, joint_steps=96, images=4, dense_images=4, text_length=64)
    whole = [b.pixels for b, _ in zip(SceneStream(recipe, 0, 0, 2), range(4), strict=False)]
    resumed = [b.pixels for b, _ in zip(SceneStream(recipe, 2, 0, 2), range(2), strict=False)]
    other_rank = next(iter(SceneStream(recipe, 0, 1, 2))).pixels
    assert all(torch.equal(a, b) for a, b in zip(whole[2:], resumed, strict=True))
    assert not torch.equal(whole[0], other_rank)


def test_stages_and_pace():
    recipe = Recipe(dense_steps=100, frozen_steps=100, joint_steps=200, warmup=10, decay_share=0.5)
    assert [recipe.stage(s) for s in (0, 99, 100, 200, 399)] == ["dense", "dense", "frozen", "joint", "joint"]
    assert recipe.pace(0) == pytest.approx(0.1)
    assert recipe.pace(50) == recipe.pace(250) == 1
    assert 0 < recipe.pace(399) == pytest.approx(0.01)


def test_muon_equals_one_matrix_at_a_time():
    """The batched orthogonalisation is the obvious one, matrix by matrix."""
    torch.manual_seed(0)
    weights = [
        nn.Parameter(torch.randn(6, 4)),
        nn.Parameter(torch.randn(6, 4)),
        nn.Parameter(torch.randn(3, 8)),
    ]
    before = [w.detach().clone() for w in weights]
    for w in weights:
        w.grad = torch.randn_like(w)
    BatchedMuon([{"params": weights}], lr=0.1, momentum=0.9, weight_decay=0.0).step()
    for w, old in zip(weights, before, strict=True):
        x = 0.1 * w.grad + 0.9 * (0.1 * w.grad)  # Nesterov on the first step's average
        x = x.T if x.shape[0] > x.shape[1] else x
        x = x / (x.norm() + 1e-7)
        for _ in range(5):
            gram = x @ x.T
            x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
        step = (x.T if w.shape[0] > w.shape[1] else x) * 0.1 * 0.2 * max(w.shape) ** 0.5
        torch.testing.assert_close(w.detach(), old - step, atol=1e-5, rtol=1e-4)


def test_every_parameter_has_one_optimiser(vlm):
    optimisers = make_optimisers(vlm, PatchObjectives(), 1e-3, 1e-3)
    held = [id(p) for o in optimisers for g in o.param_groups for p in g["params"]]
    assert len(held) == len(set(held))
    assert {id(p) for p in vlm.parameters()} <= set(held)


def test_a_recipe_that_cannot_be_is_refused():
    with pytest.raises(InvalidValueError, match=f"multiple of {EPOCH}"):
        Recipe(dense_steps=1)
    with pytest.raises(InvalidValueError, match="images is -2"):
        Recipe(images=-2)


def test_another_recipe_does_not_go_on_with_this_ones_checkpoint(tmp_path):
    cli._check_recipe(tmp_path, Recipe())
    (tmp_path / "last.ckpt").touch()
    cli._check_recipe(tmp_path, Recipe())
    with pytest.raises(InvalidValueError, match="seed: 0 there, 7 asked for"):
        cli._check_recipe(tmp_path, Recipe(seed=7))
    assert json.loads((tmp_path / "recipe.json").read_text())["seed"] == 0


def test_devices_must_divide_the_images(tmp_path):
    options = {**Recipe().__dict__, "devices": 3, "out": tmp_path, "accelerator": "cpu"}
    with pytest.raises(InvalidValueError, match="--devices 3"):
        cli.train(SimpleNamespace(**options))


def test_missing_weights_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(model, "WEIGHTS", tmp_path)
    with pytest.raises(MissingFileError, match="embedded train"):
        model.weights_folder()
