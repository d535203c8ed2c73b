"""`embedded_qwen`: a small Qwen2.5-VL, its packed forward pass, and what it learns in a step.

The vision encoder has rotary positions only: on a flat image all of its tokens are equal, so places are learnt
inside the decoder, from M-RoPE.
"""

import random
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_exp.embedded.model import TEXT_HEADS, TEXT_HIDDEN, TEXT_LAYERS, WIDTH
from zoo_exp.embedded.packed_forward import Rope, decode_packed
from zoo_exp.embedded.packing import MEAN, STD, normalise
from zoo_exp.embedded.vocabulary import BOS, EOS, PAD
from zoo_exp.embedded.world2.batches import contents, families_at, pack_questions
from zoo_exp.embedded.world2.builders import make_llava
from zoo_exp.embedded.world2.heads import DenseHeads, raster_places
from zoo_exp.embedded.world2.layout import BASE_SIDE, PATCH, Scene2, make_scene_2
from zoo_exp.embedded.world2.learners import COMPUTE, Learner, answer_rows
from zoo_exp.embedded.world2.lexicon import (
    IMAGE_PAD,
    QWEN_PREFIX,
    QWEN_TEMPLATE,
    TOKEN_ID_2,
    VIDEO_PAD,
    VISION_END,
    VISION_START,
    VOCAB_ROWS,
    make_tokenizer_2,
)
from zoo_exp.embedded.world2.plan import Plan

VISION_PATCH, MERGE, WINDOW = 4, 2, 32  # px, patches, px: a token is 8 x 8 px, a window 4 x 4 tokens
VISION_WIDTH, VISION_DEPTH, VISION_HEADS_2 = 64, 6, 4
FULL_ATTENTION = (2, 5)
# Head 16 gives four frequencies an axis: with theta 100 they turn from 1 to 0.03 a patch.
VISION_THETA = 100.0
# The decoder expects visual tokens of about this size; Muon alone would need thousands of steps to get there.
GAIN = 20.0
MIN_PIXELS, MAX_PIXELS = 64 * 64, 160 * 128
SIDES = range(64, 161, 8)
OTHER_SIZES = 0.25  # share of the batches whose images are not 96 x 96 px


def make_qwen(seed: int = 0, decoder: nn.Module | None = None) -> Any:
    """A fresh Qwen2.5-VL of 1.2 million parameters.

    Args:
        seed: seed of the weights.
        decoder: a Llama decoder of the same sizes to copy; None leaves the decoder random.
    """
    from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration

    config = Qwen2_5_VLConfig(
        vision_config={
            **{"depth": VISION_DEPTH, "hidden_size": VISION_WIDTH, "intermediate_size": 3 * VISION_WIDTH},
            **{"num_heads": VISION_HEADS_2, "patch_size": VISION_PATCH, "spatial_merge_size": MERGE},
            **{"temporal_patch_size": 1, "window_size": WINDOW, "out_hidden_size": WIDTH},
            "fullatt_block_indexes": list(FULL_ATTENTION),
            "rope_parameters": {"rope_type": "axial", "rope_theta": VISION_THETA},
        },
        text_config={
            **{"vocab_size": VOCAB_ROWS, "hidden_size": WIDTH, "intermediate_size": TEXT_HIDDEN},
            **{"num_hidden_layers": TEXT_LAYERS, "num_attention_heads": TEXT_HEADS},
            **{"num_key_value_heads": TEXT_HEADS, "max_position_embeddings": 2048, "rms_norm_eps": 1e-6},
            # A list of ones interleaves time, row and column over all frequencies.
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1] * 16},
            **{"bos_token_id": TOKEN_ID_2[BOS], "eos_token_id": TOKEN_ID_2[EOS]},
            **{"pad_token_id": TOKEN_ID_2[PAD], "tie_word_embeddings": True},
        },
        image_token_id=TOKEN_ID_2[IMAGE_PAD],
        video_token_id=TOKEN_ID_2[VIDEO_PAD],
        vision_start_token_id=TOKEN_ID_2[VISION_START],
        vision_end_token_id=TOKEN_ID_2[VISION_END],
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Qwen2_5_VLForConditionalGeneration(config)
        _initialise(model)
    if decoder is not None:
        missing, extra = model.model.language_model.load_state_dict(decoder.state_dict(), strict=False)
        # Qwen's projections have biases, which start at zero.
        assert not extra
        assert all(name.endswith("_proj.bias") for name in missing), missing
        model.tie_weights()
    return model


def _initialise(model: Any) -> None:
    """Normal weights with small residual branches, and a merger whose output is as large as the decoder expects."""
    residual = ("o_proj.weight", "down_proj.weight", "attn.proj.weight")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed_tokens" not in name:
                nn.init.normal_(parameter, std=0.7 * parameter.shape[1] ** -0.5)
                if name.endswith(residual):
                    parameter.mul_(0.4)
            elif name.endswith("bias"):
                parameter.zero_()
        model.model.language_model.embed_tokens.weight.normal_(std=0.05)
        patch = model.model.visual.patch_embed.proj.weight
        nn.init.normal_(patch, std=0.45 * patch[0].numel() ** -0.5)
        model.model.visual.merger.mlp[2].weight.mul_(GAIN)


def qwen_processor(processor_class: Any) -> Any:
    """Image processor and tokenizer of `embedded_qwen`; from 64 x 64 to 160 x 128 pixels.

    Args:
        processor_class: the stock processor, or one that needs no torchvision.
    """
    from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

    images = Qwen2VLImageProcessorPil(
        size={"shortest_edge": MIN_PIXELS, "longest_edge": MAX_PIXELS},
        patch_size=VISION_PATCH,
        temporal_patch_size=1,
        merge_size=MERGE,
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return processor_class(
        image_processor=images, tokenizer=make_tokenizer_2(qwen=True), chat_template=QWEN_TEMPLATE
    )


@lru_cache(maxsize=64)
def _layout(rows: int, cols: int) -> tuple[Tensor, Tensor, list[tuple[int, int]], Rope]:
    """How patches are grouped into windows.

    Args:
        rows: patches down.
        cols: patches across.

    Returns:
        Order of the patches (whole windows, equally shaped ones together); its inverse over tokens; number of
        windows and patches a window, per shape; cosine and sine of the rotary positions [1, patches, 1, head].
    """
    window = WINDOW // MERGE // VISION_PATCH
    token = torch.arange(rows // MERGE * (cols // MERGE)).view(rows // MERGE, cols // MERGE)
    shapes: dict[torch.Size, list[Tensor]] = {}
    for row in range(0, rows // MERGE, window):
        for col in range(0, cols // MERGE, window):
            part = token[row : row + window, col : col + window]
            shapes.setdefault(part.shape, []).append(part.flatten())
    groups = [(len(parts), MERGE**2 * len(parts[0])) for parts in shapes.values()]
    tokens = torch.cat([torch.cat(parts) for parts in shapes.values()])
    corner = torch.stack([tokens // (cols // MERGE), tokens % (cols // MERGE)], -1) * MERGE
    place = (corner[:, None] + torch.tensor([[0, 0], [0, 1], [1, 0], [1, 1]])).flatten(0, 1)
    head = VISION_WIDTH // VISION_HEADS_2
    frequency = VISION_THETA ** -(torch.arange(0, head // 2, 2).float() / (head // 2))
    angle = (place[..., None].float() * frequency).flatten(1)
    angle = torch.cat([angle, angle], -1)[None, :, None]
    return place[:, 0] * cols + place[:, 1], tokens.argsort(), groups, (angle.cos(), angle.sin())


def encode_cells(visual: nn.Module, pixels: Tensor) -> Tensor:
    """What the merger reads, tokens in raster order [B, N, 4 Dv], from pixels [B, 3, H, W].

    Equal to the stock class, with one attention call for each shape of window instead of one for each window.
    """
    batch, _, height, width = pixels.shape
    p, rows, cols = VISION_PATCH, height // VISION_PATCH, width // VISION_PATCH
    order, back, groups, turn = _layout(rows, cols)
    order, back = order.to(pixels.device), back.to(pixels.device)
    cos, sin = (part.to(pixels.device) for part in turn)
    patches = (
        pixels.view(batch, 3, rows, p, cols, p).permute(0, 2, 4, 1, 3, 5).reshape(batch, rows * cols, -1)
    )
    x = patches[:, order] @ visual.patch_embed.proj.weight.sum(2).flatten(1).T
    for number, block in enumerate(visual.blocks):
        normed = _rms(x, block.norm1)
        q, k, v = block.attn.qkv(normed).unflatten(-1, (3, VISION_HEADS_2, -1)).unbind(2)
        q, k = _turn(q, cos, sin), _turn(k, cos, sin)
        if number in FULL_ATTENTION:
            mixed = _attend(q, k, v)
        else:
            parts, start = [], 0
            for count, size in groups:
                stop = start + count * size
                own = (t[:, start:stop].unflatten(1, (count, size)).flatten(0, 1) for t in (q, k, v))
                parts.append(_attend(*own).reshape(batch, count * size, -1))
                start = stop
            mixed = torch.cat(parts, 1)
        x = x + block.attn.proj(mixed)
        hidden, mlp = _rms(x, block.norm2), block.mlp
        x = x + mlp.down_proj(functional.silu(mlp.gate_proj(hidden)) * mlp.up_proj(hidden))
    return x.view(batch, len(back), -1)[:, back]


def merge_cells(visual: nn.Module, cells: Tensor) -> Tensor:
    """The merger: cells [B, N, 4 Dv] to visual tokens [B, N, D]."""
    merger = visual.merger
    return merger.mlp(_rms(cells.unflatten(-1, (MERGE**2, -1)), merger.ln_q).flatten(-2))


def _rms(states: Tensor, norm: nn.Module) -> Tensor:
    return functional.rms_norm(states, states.shape[-1:], norm.weight, norm.variance_epsilon)


def _turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = states.chunk(2, -1)
    return states * cos + torch.cat([-second, first], -1) * sin


def _attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    mixed = functional.scaled_dot_product_attention(*(t.transpose(1, 2) for t in (q, k, v)))
    return mixed.transpose(1, 2).flatten(2)


def m_rope(llm: Any, positions: Tensor) -> Rope:
    """Cosine and sine [B, 1, L, head] of positions [3, B, L] (time, row, column)."""
    angle = positions[..., None].float() * llm.rotary_emb.inv_freq
    sections = list(llm.rotary_emb.mrope_section)
    angle = torch.cat([part[i % 3] for i, part in enumerate(angle.split(sections, -1))], -1)
    angle = torch.cat([angle, angle], -1)[:, None]
    return angle.cos(), angle.sin()


def prefix_positions(rows: int, cols: int) -> tuple[Tensor, int]:
    """Positions of BOS, USER:, start, a raster of visual tokens, end [3, 1, L], and the first one behind them."""
    if rows * cols == 0:
        return torch.arange(2)[None, None].expand(3, 1, -1), 2
    n = len(QWEN_PREFIX)
    row, col = torch.arange(rows).repeat_interleave(cols), torch.arange(cols).repeat(rows)
    image = torch.stack([torch.zeros_like(row), row, col]) + n
    end = n + max(rows, cols)
    positions = torch.cat([torch.arange(n).expand(3, -1), image, torch.full((3, 1), end)], 1)
    return positions[:, None], end + 1


def qwen_text_forward(
    llm: Any,
    visual: Tensor,
    grid: tuple[int, int],
    text: tuple[Tensor, Tensor, Tensor],
    shift: int = 0,
    kept: Tensor | None = None,
    probe_after: int = 0,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Final hidden states of packed questions [B, L, D], and the visual tokens' states after a layer [B, N, D].

    Args:
        llm: the decoder.
        visual: visual tokens [B, K, D]; none at all leaves the image's marks out as well.
        grid: rows and columns of the whole raster.
        text: ids, segment and position [B, L] each.
        shift: gap between the image and the questions.
        kept: number of each token in the raster [B, K] where some are gone; they keep their positions.
        probe_after: number of the layer for the visual tokens' states (0: None).
        options: `rows` and `compute` of `decode_packed`.
    """
    ids, segment, position = text
    batch, blind = len(ids), visual.shape[1] == 0
    table = llm.embed_tokens
    start = table(torch.tensor([QWEN_PREFIX[:2] if blind else QWEN_PREFIX], device=ids.device)).expand(
        batch, -1, -1
    )
    places, first = prefix_positions(*((0, 0) if blind else grid))
    places = places.to(ids.device)
    prefix = start
    if not blind:
        end = table(torch.tensor([[TOKEN_ID_2[VISION_END]]], device=ids.device)).expand(batch, -1, -1)
        prefix = torch.cat([start, visual, end], 1)
    if kept is not None:
        n = len(QWEN_PREFIX)
        image = places[:, 0, n:-1][:, kept]  # [3, B, K]
        edges = places.expand(-1, batch, -1)
        places = torch.cat([edges[:, :, :n], image, edges[:, :, -1:]], 2)
    text_places = (first + shift + position)[None].expand(3, -1, -1)
    hidden, probed = decode_packed(
        llm,
        prefix,
        m_rope(llm, places),
        table(ids),
        m_rope(llm, text_places),
        segment,
        probe_after,
        **options,
    )
    return hidden, None if probed is None or blind else probed[:, len(QWEN_PREFIX) : -1]


class QwenLearner(Learner):
    """`embedded_qwen`: images of several sizes, places learnt inside the decoder."""

    encoder_names = ("visual.patch_embed", "visual.blocks")

    def __init__(self, plan: Plan, model: Any = None) -> None:
        super().__init__(plan)
        if model is None:
            model = make_qwen(plan.seed, make_llava(plan.seed).model.language_model)
        self.model = model
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            self.heads = DenseHeads(MERGE**2 * VISION_WIDTH, 0, WIDTH)
        for block in self.model.model.visual.blocks:
            block.attn.qkv.weight.parts = 3  # Muon orthogonalises q, k and v apart
        self.model.model.visual.merger.mlp[2].weight.gain = GAIN

    def encode(self, pixels: Tensor) -> tuple[Tensor, Tensor | None]:
        """What the merger reads; there is no CLS."""
        return encode_cells(self.model.model.visual, pixels), None

    def size(self, step: int) -> tuple[int, int]:
        """Height and width of a step's images."""
        rng = random.Random(f"size/{self.plan.seed}/{step}")
        if rng.random() >= OTHER_SIZES:
            return BASE_SIDE, BASE_SIDE
        height = rng.choice(SIDES)
        return height, rng.choice([width for width in SIDES if height * width <= MAX_PIXELS])

    def dense_losses(self, step: int) -> dict[str, Tensor]:
        """Dense labels before the merger, and the alignment of its output with the copied decoder's words."""
        plan, (height, width) = self.plan, self.size(step)
        images = max(2, round(plan.dense_images * BASE_SIDE**2 / (height * width)))
        first = (plan.seed * 10**4 + step) * 64
        scenes = [make_scene_2("train", first + i, height, width) for i in range(images)]
        pixels, patches, _ = self._images(scenes)
        cells, _ = self.encode(pixels)
        dense, kind = self.heads.dense(cells, patches)
        words = self.model.model.language_model.embed_tokens.weight.detach()
        align = self.heads.alignment(merge_cells(self.model.model.visual, cells), words, patches)
        return {"loss": dense + plan.align_weight * align, "dense": dense, "kind": kind, "align": align}

    def joint_losses(self, step: int) -> dict[str, Tensor]:
        """Answers, the dense loss, and places inside the decoder while they last."""
        plan, (height, width) = self.plan, self.size(step)
        visual_part, llm = self.model.model.visual, self.model.model.language_model
        images = max(2, round(plan.images * BASE_SIDE**2 / (height * width)))
        scenes, seeds = self.scenes(step, images, height, width)
        weights = families_at((height, width) == (BASE_SIDE, BASE_SIDE))
        text = pack_questions(scenes, seeds, plan.text_length, plan.questions, weights)
        text = type(text)(*(part.to(self.device) for part in text))
        pixels, patches, _ = self._images(scenes)
        moving = plan.encoder_pace > 0
        with torch.set_grad_enabled(moving):
            cells, _ = self.encode(pixels)
            dense, kind = self.heads.dense(cells, patches)
        projected = merge_cells(visual_part, cells)
        grid = height // PATCH, width // PATCH
        kept, visual = self._thinned(projected, step), projected
        if kept is not None:
            visual = projected.gather(1, kept[..., None].expand(-1, -1, projected.shape[2]))
        shift = random.Random(f"shift/{plan.seed}/{step}").randint(0, plan.max_shift)
        share, rows = plan.auxiliary(step), answer_rows(text)
        hidden, probed = qwen_text_forward(
            *(llm, visual, grid, text[:3], shift, kept, 1 if share and kept is None else 0),
            rows=rows,
            compute=COMPUTE,
        )
        result = {**self.answer_loss(hidden, text, rows), "kind": kind, "dense": dense}
        result["loss"] = result["answer"] + (plan.dense_weight * dense if moving else 0)
        words = llm.embed_tokens.weight
        if share and plan.align_weight:
            result["align"] = self.heads.alignment(projected, words, patches)
            result["loss"] = result["loss"] + share * plan.align_weight * result["align"]
        if probed is not None and (height, width) == (BASE_SIDE, BASE_SIDE):
            result["sides"] = self.heads.sides(probed, words, raster_places(*grid).to(self.device))
            result["loss"] = result["loss"] + share * plan.side_weight * result["sides"]
        result["thinned"] = torch.tensor(float(kept is not None))
        return result

    def _thinned(self, projected: Tensor, step: int) -> Tensor | None:
        """Numbers of the tokens that stay in half of the steps [B, K]; they keep their positions, as when pruned."""
        rng, total = random.Random(f"thin/{self.plan.seed}/{step}"), projected.shape[1]
        if rng.random() >= self.plan.drop_share:
            return None
        few = rng.randint(min(self.plan.drop_min, total), total)
        return torch.rand(projected.shape[:2]).argsort(1)[:, :few].sort(1).values.to(projected.device)

    def _images(self, scenes: list[Scene2]) -> tuple[Tensor, Tensor, Tensor]:
        labels = [scene.patch_labels() for scene in scenes]
        pixels = normalise(np.stack([scene.pixels for scene in scenes]))
        there = torch.from_numpy(np.stack([contents(label) for label in labels]))
        patches = torch.from_numpy(np.stack(labels))
        return pixels.to(self.device), patches.to(self.device), there.to(self.device)
