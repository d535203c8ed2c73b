"""Places where a trained decoder reads them: what another family's visual tokens are taught at the start."""

import functools

import numpy as np
import pytest
import torch

from zoo_exp.embedded.packed_forward import vision_forward
from zoo_exp.embedded.packing import normalise
from zoo_exp.embedded.shipped import shipped_folder
from zoo_exp.embedded.world2 import front, train
from zoo_exp.embedded.world2.builders import insert_first, make_llava
from zoo_exp.embedded.world2.front import behind_front, learn_places, normalised
from zoo_exp.embedded.world2.heads import raster_places
from zoo_exp.embedded.world2.layout import make_scene_2
from zoo_exp.embedded.world2.place_codes import PlaceCodes, place_codes
from zoo_exp.embedded.world2.plan import plan_for
from zoo_exp.embedded.world2.train import load_start, make_learner
from zoo_exp.errors import InvalidValueError

SMALL = {
    "images": 2,
    "text_length": 32,
    "questions": 4,
    "drop_share": 0.0,
    "side_weight": 1.0,
    "dense_steps": 0,
}


def test_a_state_that_is_the_mean_of_its_place_costs_nothing():
    rows, cols = torch.randn(3, 1, 16), torch.randn(1, 4, 16)
    means = torch.nn.functional.rms_norm(rows + cols, (16,))
    codes, places = PlaceCodes(means, rank=12), raster_places(3, 4)
    assert codes(means.view(1, 12, 16), places) < 1e-6
    assert codes(means.view(1, 12, 16).flip(1), places) > 1
    assert codes(means.view(1, 12, 16), places * torch.tensor([-1.0, 1.0])) > 0.5


@torch.no_grad()
def test_tokens_of_the_shipped_model_are_where_its_codes_say():
    """On other scenes than those of the means, whatever the tokens show."""
    llava = load_start(str(shipped_folder("embedded")), "embedded")
    codes, inner = place_codes(llava, images=24), llava.model
    pixels = normalise(np.stack([make_scene_2("train", index).pixels for index in range(8)]))
    visual = inner.multi_modal_projector(vision_forward(inner.vision_tower, pixels)[0])
    places = raster_places(12, 12)
    assert codes(visual, places) < 0.25
    assert codes(visual, -places) > 2
    assert codes(visual, places.roll(6, 0)) > 1


@pytest.mark.parametrize("name", ["embedded_next", "embedded_qwen"])
def test_a_model_behind_the_decoder_of_embedded_is_taught_places(name, monkeypatch):
    monkeypatch.setattr(train, "place_codes", functools.partial(place_codes, images=8))
    llava = str(shipped_folder("embedded"))
    plan = plan_for(name, **SMALL, front_layers=1, probe_layer=1)
    start = llava if name == "embedded_next" else str(shipped_folder("embedded_qwen"))
    learner = make_learner(plan, start, None if name == "embedded_next" else llava)
    assert len(learner.model.model.language_model.layers) == 8 + 1
    if name == "embedded_qwen":
        shipped = load_start(start, name).model.visual.state_dict()
        assert all(
            torch.equal(value, shipped[key]) for key, value in learner.model.model.visual.state_dict().items()
        )
    usual = [step for step in range(20) if name == "embedded_qwen" or learner.shape(step) == (2, 2)]
    losses = learner.losses(usual[0])
    losses["loss"].backward()
    assert losses["where" if name == "embedded_next" else "sides"] > 0.1
    assert learner.model.model.language_model.layers[0].self_attn.o_proj.weight.grad.abs().max() > 0


def test_layers_in_front_of_the_model_whose_decoder_is_copied_are_refused():
    with pytest.raises(InvalidValueError, match="front_layers: for embedded_next and embedded_qwen"):
        make_learner(plan_for("embedded", front_layers=1))


@torch.no_grad()
def test_a_layer_in_front_changes_nothing_at_first():
    model = make_llava(0).eval()
    ids = torch.randint(5, 100, (1, 9))
    before = model(input_ids=ids).logits
    insert_first(model)
    assert len(model.model.language_model.layers) == model.config.text_config.num_hidden_layers == 5
    assert torch.equal(model(input_ids=ids).logits, before)


@pytest.mark.parametrize(
    ("name", "start", "decoder", "message"),
    [
        ("embedded_next", "embedded", "embedded", "embedded_next takes it from start="),
        ("embedded_qwen", "embedded_qwen", "embedded_qwen", "is a qwen2_5_vl: give a llava"),
    ],
)
def test_a_decoder_that_does_not_fit_is_refused(name, start, decoder, message):
    with pytest.raises(InvalidValueError, match=message):
        make_learner(plan_for(name), str(shipped_folder(start)), str(shipped_folder(decoder)))


@pytest.mark.parametrize("name", ["embedded_next", "embedded_qwen"])
def test_the_layers_in_front_learn_places_and_nothing_else_changes(name, monkeypatch):
    monkeypatch.setattr(train, "place_codes", functools.partial(place_codes, images=8))
    monkeypatch.setattr(front, "SLOTS", 1)
    llava = str(shipped_folder("embedded"))
    plan = plan_for(name, **SMALL, front_layers=1, front_steps=100, probe_layer=1)
    start = llava if name == "embedded_next" else str(shipped_folder("embedded_qwen"))
    learner = make_learner(plan, start, None if name == "embedded_next" else llava)
    llm = learner.model.model.language_model
    before = {key: value.clone() for key, value in learner.model.state_dict().items()}
    needed = [parameter.requires_grad for parameter in learner.parameters()]
    prompts = learner.prompts(0)
    far = learner.codes(prompts.tokens[:, prompts.visual], prompts.places)
    assert learn_places(learner) < 0.6 * far
    assert [parameter.requires_grad for parameter in learner.parameters()] == needed
    assert len(llm.layers) == 9
    changed = {
        key for key, value in learner.model.state_dict().items() if not torch.equal(value, before[key])
    }
    assert changed
    assert all("language_model.layers.0." in key for key in changed)
    with torch.no_grad():
        states = behind_front(llm, prompts, 1)
    text = slice(int(prompts.visual.max()) + 1, None)
    error = (normalised(states) - normalised(prompts.tokens))[:, text].square().mean()
    assert error < 0.2
