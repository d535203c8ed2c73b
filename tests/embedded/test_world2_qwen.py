"""`embedded_qwen`: the packed forward is the stock one, for any size of image, whole or thinned."""

import pytest
import torch

from zoo_exp.embedded.world2 import qwen_forward, qwen_model
from zoo_exp.embedded.world2.lexicon import QWEN_PREFIX, TOKEN_ID_2, VISION_END
from zoo_exp.embedded.world2.plan import plan_for
from zoo_exp.embedded.world2.question_packs import families_at
from zoo_exp.embedded.world2.qwen import QwenLearner

SIZES = [(96, 96), (64, 160), (72, 104), (40, 88)]


@pytest.fixture(scope="module")
def model():
    return qwen_model.make_qwen(seed=3).eval()


def stock_patches(pixels):
    """Patches in the order of the stock image processor: merged cells in raster order, four patches each."""
    batch, channels, height, width = pixels.shape
    cells = pixels.view(batch, channels, height // 8, 2, 4, width // 8, 2, 4)
    flat = cells.permute(0, 2, 5, 3, 6, 1, 4, 7).reshape(-1, channels * 16)
    return flat, torch.tensor([[1, height // 4, width // 4]] * batch)


@torch.no_grad()
@pytest.mark.parametrize("size", SIZES)
def test_packed_forward_equals_the_stock_classes(model, size):
    torch.manual_seed(0)
    height, width = size
    grid = height // 8, width // 8
    pixels = torch.randn(2, 3, height, width)
    flat, thw = stock_patches(pixels)
    stock = torch.stack(
        list(model.model.get_image_features(pixel_values=flat, image_grid_thw=thw).pooler_output)
    )
    mine = qwen_forward.merge_cells(model.model.visual, qwen_forward.encode_cells(model.model.visual, pixels))
    torch.testing.assert_close(mine, stock, atol=1e-4, rtol=1e-4)

    text = torch.randint(5, 100, (2, 9))
    n = grid[0] * grid[1]
    image = [*QWEN_PREFIX, *[model.config.image_token_id] * n, TOKEN_ID_2[VISION_END]]
    ids = torch.cat([torch.tensor([image] * 2), text], 1)
    output = model(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        pixel_values=flat,
        image_grid_thw=thw,
        mm_token_type_ids=(ids == model.config.image_token_id).int(),
    )
    packed = (text, torch.zeros_like(text), torch.arange(9).expand(2, -1))
    hidden, _ = qwen_forward.qwen_text_forward(model.model.language_model, mine, grid, packed)
    torch.testing.assert_close(model.lm_head(hidden), output.logits[:, -9:], atol=2e-4, rtol=1e-4)

    everything = torch.arange(n).expand(2, -1)
    whole, _ = qwen_forward.qwen_text_forward(model.model.language_model, mine, grid, packed, kept=everything)
    torch.testing.assert_close(whole, hidden)


def test_a_thinned_token_keeps_its_place():
    """Tokens that stay have the positions they had in the whole raster."""
    places, first = qwen_forward.prefix_positions(3, 4)
    assert first == 3 + 4 + 1
    assert places.shape == (3, 1, 3 + 12 + 1)
    assert places[:, 0, 3 + 6].tolist() == [3, 3 + 1, 3 + 2]  # token 6 lies in row 1, column 2


def test_halves_are_asked_about_the_usual_size_only():
    weights = families_at(usual_size=False)
    assert {name for name, weight in weights.items() if weight == 0} == {"seedbench", "mme"}
    assert all(families_at(usual_size=True).values())


def test_a_step_has_finite_gradients():
    plan = plan_for("embedded_qwen", dense_images=2, images=2, text_length=64, questions=8, encoder_pace=0.1)
    learner = QwenLearner(plan)
    for step in (0, plan.dense_steps, plan.dense_steps + 1):
        learner.zero_grad()
        learner.losses(step)["loss"].backward()
        norms = [p.grad.norm() for p in learner.parameters() if p.grad is not None]
        assert norms
        assert all(torch.isfinite(norm) for norm in norms)
