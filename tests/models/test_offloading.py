"""Models whose weights accelerate offloads to the CPU or to disk, or places by a device map."""

import pytest
import torch
from tiny_families import tiny_family, tiny_prompt
from transformers.generation.streamers import BaseStreamer

import zoo_exp
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.offloaded import is_offloaded, loaded_copy
from zoo_exp.models.tiny import tiny_inputs, tiny_model

accelerate = pytest.importorskip("accelerate", reason="accelerate is not installed: pip install -e .[test]")

SIZES = {"llava": (56, 56), "llava_next": (100, 56), "qwen2_5_vl": (56, 84)}
FAMILIES = (*SIZES, "internvl")
SELECTORS = (("full",), ("divprune", 2), ("zoo", 2), ("fastv", 3))
WAYS = {
    "cpu_offload": lambda model, folder: accelerate.cpu_offload(model),
    "disk_offload": lambda model, folder: accelerate.disk_offload(model, str(folder)),
    "dispatch_model": lambda model, folder: accelerate.dispatch_model(
        model, {"": "cpu"}, main_device="cpu", force_hooks=True
    ),
}


def made(family, dtype=torch.float32):
    """A model and a prompt with one image."""
    if family in SIZES:
        model = tiny_model(family, dtype=dtype)
        return model, tiny_inputs(model, [[SIZES[family]]])
    model = tiny_family(family).to(dtype)
    return model, tiny_prompt(model)


def answered(model, given, selector, generates=True):
    """Logits, generated ids, indices and scores of the kept tokens; no ids unless the model `generates`."""
    with zoo_exp.pruned(model, *selector) as pruning, torch.no_grad():
        found = [model(**given).logits]
        if generates:
            found.append(model.generate(**given, max_new_tokens=3, do_sample=False))
    chosen = [one for row in pruning.selections or () for one in row]
    return [*found, *(t for one in chosen for t in (one.indices, one.scores) if t is not None)]


def equal(one, other):
    """Whether all tensors of two answers are the same, bit for bit."""
    return len(one) == len(other) and all(map(torch.equal, one, other))


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("way", WAYS)
def test_hooks_of_accelerate_change_nothing(family, way, tmp_path):
    model, given = made(family)
    # `generate` of transformers itself cannot read the newline of LLaVA-NeXT where that is offloaded.
    generates = family != "llava_next" or way == "dispatch_model"
    with torch.no_grad():
        plain = model(**given).logits
    expected = [answered(model, given, selector, generates) for selector in SELECTORS]
    hooked = WAYS[way](model, tmp_path)
    assert is_offloaded(hooked) == (way != "dispatch_model")
    assert torch.equal(expected[0][0], plain)
    for selector, before in zip(SELECTORS, expected, strict=True):
        assert equal(answered(hooked, given, selector, generates), before)


@pytest.mark.parametrize("family", FAMILIES)
def test_sensitivity_of_an_offloaded_projector_is_computed_in_float32(family):
    """Steps of 0.01 would be rounded away in the bfloat16 in which the projector runs."""
    model, given = made(family, torch.bfloat16)
    before = answered(model, given, ("zoo", 2), False)
    assert len(before) == 3  # with scores
    assert equal(answered(accelerate.cpu_offload(model), given, ("zoo", 2), False), before)


def test_a_smaller_image_in_an_offloaded_encoder():
    model, given = made("llava")
    before = answered(model, given, ("resize", 4))
    assert equal(answered(accelerate.cpu_offload(model), given, ("resize", 4)), before)


def test_the_copy_has_weights_and_no_hooks_and_leaves_the_module_offloaded():
    model, _ = made("llava")
    weight = model.model.multi_modal_projector.linear_1.weight.detach().clone()
    projector = accelerate.cpu_offload(model).model.multi_modal_projector
    copied = loaded_copy(projector)
    x = torch.randn(3, weight.shape[1])
    assert torch.equal(copied.linear_1.weight, weight)
    assert torch.equal(copied(x), projector(x))
    assert not any(hasattr(m, "_hf_hook") or "forward" in vars(m) for m in copied.modules())
    assert projector.linear_1.weight.is_meta
    assert loaded_copy(copied) is copied


def test_streaming_from_an_offloaded_model():
    class Collect(BaseStreamer):
        def __init__(self):
            self.ids = []

        def put(self, value):
            self.ids += value.flatten().tolist()

        def end(self):
            pass

    model, given = made("qwen2_5_vl")
    expected = answered(model, given, ("divprune", 2))[1]
    streamer = Collect()
    with zoo_exp.pruned(accelerate.cpu_offload(model), "divprune", 2):
        model.generate(**given, max_new_tokens=3, do_sample=False, streamer=streamer)
    assert streamer.ids == expected[0].tolist()


@pytest.mark.parametrize(
    ("family", "device_map"),
    [("llava", "auto"), *((family, {"": "cpu"}) for family in SIZES)],
)
def test_a_checkpoint_with_a_device_map(family, device_map, tmp_path):
    model, given = made(family)
    model.save_pretrained(tmp_path)
    placed = type(model).from_pretrained(tmp_path, device_map=device_map)
    for selector in SELECTORS:
        assert equal(answered(placed, given, selector), answered(model, given, selector))


def test_load_model_with_a_device_map():
    plain = zoo_exp.load_model("embedded")
    for device_map in ("cpu", "auto", {"": "cpu"}):
        loaded = zoo_exp.load_model("embedded", device_map=device_map)
        assert loaded.adapter.n_visual == plain.adapter.n_visual
        weights = zip(loaded.model.parameters(), plain.model.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in weights)
    with pytest.raises(InvalidValueError, match="give one of them"):
        zoo_exp.load_model("embedded", device_map="cpu", device="cpu")
