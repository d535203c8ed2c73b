"""`Pruning.show` draws what the last prompt kept, and `repr` says it in words."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_families import tiny_family, tiny_prompt

import zoo_exp
from zoo_exp import tasks
from zoo_exp.config.arms import expand
from zoo_exp.config.schema import ArmConfig
from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.families import adapter_for
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.seen import seen_all
from zoo_exp.overlays import darkened, overlaid
from zoo_exp.tasks import data
from zoo_exp.workbench.panels import draw_panels, panel_table
from zoo_exp.workbench.questioner import Questioner


@pytest.fixture(scope="module")
def embedded():
    return zoo_exp.load_model("embedded")


@pytest.fixture(scope="module")
def scene():
    task = tasks.get("world2_vqav2")
    return task.images(data.load(task, None, 1)[0])[0]


def asked(loaded, scene):
    return chat_inputs(loaded.processor, [user_turn([scene, "Is there a red circle?"])])


def bright_cells(shown, scene, side):
    """Cells of the grid that are shown as bright as in the image."""
    image = np.asarray(scene.resize(shown.size, Image.Resampling.NEAREST)).astype(int)
    inner = np.abs(np.asarray(shown).astype(int) - image).sum(axis=2) <= 12
    step = shown.size[0] // side
    return [
        row * side + column
        for row in range(side)
        for column in range(side)
        if inner[row * step + 4 : (row + 1) * step - 4, column * step + 4 : (column + 1) * step - 4].all()
    ]


def test_the_kept_tokens_are_the_bright_cells(embedded, scene):
    with zoo_exp.pruned(embedded, "zoo", budget=16) as pruning:
        embedded.model.generate(**asked(embedded, scene), max_new_tokens=2, do_sample=False)
        shown = pruning.show(scene)
        kept = pruning.selections[0][0].indices.tolist()
    assert shown.size == (480, 480)
    assert bright_cells(shown, scene, 12) == kept


def test_of_a_layer_selector_the_tokens_at_the_last_layer_are_shown(embedded, scene):
    with zoo_exp.pruned(embedded, "fastv", budget=16) as pruning:
        embedded.model.generate(**asked(embedded, scene), max_new_tokens=2, do_sample=False)
        assert len(bright_cells(pruning.show(scene), scene, 12)) == 16
        assert "144 visual tokens kept, 16 at the last layer" in repr(pruning)
        with pytest.raises(InvalidValueError, match="rows 0 to 0"):
            pruning.show(scene, row=1)
    with zoo_exp.pruned(embedded.model, "fastv", budget=16) as pruning:
        embedded.model.generate(**asked(embedded, scene), max_new_tokens=2, do_sample=False)
        with pytest.raises(InvalidValueError, match="processor=processor"):
            pruning.show(scene)
        assert pruning.show(scene, processor=embedded.processor).size == (480, 480)


def test_repr_names_selector_budget_options_and_counts(embedded, scene):
    with zoo_exp.pruned(embedded, "zoo", budget="11.1%", fusion="sum") as pruning:
        assert repr(pruning) == "<Pruning zoo, budget=0.111, fusion='sum' on llava; no prompt yet>"
        with pytest.raises(InvalidValueError, match="call generate"):
            pruning.show(scene)
        embedded.model.generate(**asked(embedded, scene), max_new_tokens=2, do_sample=False)
        assert repr(pruning).endswith("last prompt: 16 visual tokens kept of 144>")
        with pytest.raises(InvalidValueError, match="PIL image"):
            pruning.show("photo.jpg")


def test_a_family_without_a_grid_says_that_it_cannot_draw():
    model = tiny_family("mistral3")
    with zoo_exp.pruned(model, "divprune", budget=2) as pruning:
        model(**tiny_prompt(model))
        pruning._engine.tap.last.rows[0][0] = VisualTokens(projected=torch.zeros(5, 2))
        with pytest.raises(InvalidValueError, match="'mistral3' form no grid"):
            pruning.show(Image.new("RGB", (8, 8)))


def test_tiles_that_are_images_of_their_own_are_joined_in_reading_order():
    tiles = [VisualTokens(projected=torch.zeros(4, 2), grid=(2, 2)) for _ in range(3)]
    pixels = torch.stack([torch.full((3, 8, 8), value) for value in (0.0, 0.5, 1.0)])
    for inputs in ({"pixel_values": pixels}, {"pixel_values": pixels[None]}):
        view = seen_all(tiles, Image.new("RGB", (30, 20)), inputs, None)
        assert (view.grid, view.image.size) == ((4, 4), (16, 16))
        assert view.marked(torch.tensor([0, 3, 4, 11])) == [0, 2, 5, 13]
    uneven = [*tiles, VisualTokens(projected=torch.zeros(6, 2), grid=(2, 3))]
    assert seen_all(uneven, Image.new("RGB", (30, 20)), {}, None) is None


def test_an_overlay_darkens_what_is_dropped():
    image = Image.new("RGB", (480, 240), (200, 100, 50))
    shown = np.asarray(overlaid(image, [0], (1, 2)))
    assert (shown[100, 100] == (200, 100, 50)).all()
    assert (shown[100, 400] == darkened(np.asarray(image))[100, 400]).all()


class _Plain:
    """Stands for the processor of a family without one here: prompts of random words with one image."""

    def __init__(self, model):
        self.model = model
        self.image_processor = None

    def apply_chat_template(self, turns, add_generation_prompt):
        return "text"

    def __call__(self, **given):
        return tiny_prompt(self.model)

    def batch_decode(self, ids, skip_special_tokens):
        return ["some words"] * len(ids)


def test_a_family_without_a_grid_answers_without_a_figure(tmp_path, monkeypatch):
    model = tiny_family("aya_vision")
    adapter = adapter_for(model)
    loaded = LoadedModel(model, _Plain(model), adapter, "tiny", None)
    monkeypatch.setattr(adapter, "_grids", lambda rows, call: [None] * len(rows))
    both = expand(
        [ArmConfig(selector="divprune"), ArmConfig(selector="visionzip"), ArmConfig(selector="full")],
        [2],
        None,
    )
    questioner = Questioner(loaded)
    looked = questioner.look(Image.new("RGB", (20, 20)), "What is it?", both)
    assert looked.view is None
    divprune, visionzip, full = questioner.ask(looked, both, new_tokens=2)
    assert (divprune.kept, divprune.response, full.response) == (2, "some words", "some words")
    assert "Selectors that work" in visionzip.problem  # of an encoder that the shared adapter does not read
    assert not draw_panels(looked, [divprune], "tiny", tmp_path / "figure.png")
    assert not (tmp_path / "figure.png").exists()
    assert "not applicable" in panel_table(looked, [visionzip], "tiny").rows[0][-1].text
