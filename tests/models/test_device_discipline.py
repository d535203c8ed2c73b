"""On a GPU: no operation mixes devices, and each time the host waits for the GPU before the prefill has a reason.

The GPU is pretended (`pretend_gpu.py`). From the vision encoder to the logits of the prefill every wait of this package
must be in `REASONS`; the waits of `transformers` must be those of stock `generate`.
"""

from collections import Counter
from functools import partial

import pytest
import torch
from pretend_gpu import GPU, PretendGPU
from torch.nn.attention import SDPBackend, sdpa_kernel

from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.models.answering import EncodedBatch, generate
from zoo_exp.models.applicability import why_not
from zoo_exp.models.families import adapter_for
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.tiny import tiny_inputs, tiny_model

pytestmark = pytest.mark.slow

SHAPES = {
    "llava": ((56, 56), (56, 56)),
    "llava_next": ((56, 150), (100, 60)),
    "qwen2_5_vl": ((84, 56), (56, 84)),
}
ROWS = 2
"""Rows of the batch, with one image each."""
STAGES = 3
"""Most layers behind which a selector drops tokens here."""
REASONS = {
    # where and how -> (most times in a batch of two rows, why)
    ("models/placeholders.py:grouped", "tolist"): (1, "which images belong to which prompt"),
    ("models/base.py:VLMAdapter.with_questions", "to cpu"): (
        2,
        "ids and mask: the host finds the question's words",
    ),
    ("models/llava_next.py:LlavaNextAdapter.collect", "to cpu"): (
        1,
        "image sizes decide the number of tiles",
    ),
    ("models/qwen2_5_vl.py:QwenAdapter.collect", "to cpu"): (
        1,
        "grids decide how the features are split by image",
    ),
    ("models/qwen2_5_vl.py:QwenAdapter.position_ids", "to cpu"): (
        2,
        "ids and mask: positions are counted on the host",
    ),
    ("models/prompt.py:keep_mask", "nonzero"): (1, "where the placeholders are; their number is checked"),
    ("models/prompt.py:left_pack", "item"): (
        1 + STAGES,
        "length of the pruned prompt, and of each later segment",
    ),
    ("models/prompt.py:prune_prompt", "tolist"): (1, "visual tokens of each row, measured for the record"),
    ("selectors/allocation.py:plan", "nonzero"): (ROWS, "which tokens of a tiled image are not newlines"),
    ("selectors/hiprune.py:with_neighbours", "tolist"): (
        ROWS,
        "neighbours of anchors in a raster of the host",
    ),
    ("selectors/hiprune.py:with_neighbours", "to cpu"): (ROWS, "the tiles of that raster"),
    ("core/merging.py:dominant_and_contextual", "nonzero"): (ROWS, "tokens that are not dominant"),
    ("core/merging.py:dominant_and_contextual", "mask"): (2 * ROWS, "of these, the targets and the others"),
    # Selectors behind decoder layers: the prefill needs the number of tokens before its next layer.
    ("models/engine.py:Engine._before_llm", "item"): (1, "whether a call of the model has visual tokens"),
    ("models/segments.py:first_position", "item"): (2, "position of the first token, if rows agree"),
    ("models/segments.py:whole_prompt", "item"): (2, "whether a segment has padding"),
    ("models/engine.py:Engine._prefill", "tolist"): (1, "visual tokens of each row"),
    ("models/layer_hooks.py:LayerHooks._prepare", "tolist"): (
        1,
        "visual tokens of each row decide its schedule",
    ),
    ("models/layer_hooks.py:LayerHooks._prepare", "nonzero"): (ROWS, "real tokens of each row"),
    ("models/layer_hooks.py:LayerHooks._pick", "nonzero"): (STAGES * ROWS, "real tokens of each row"),
    ("models/layer_hooks.py:LayerHooks._prune", "nonzero"): (STAGES * ROWS, "visual tokens of each row"),
    ("models/layer_inputs.py:LayerInputs._built", "item"): (
        2 * STAGES,
        "transformers looks whether a mask is needed",
    ),
    ("models/segments.py:Segment.shorten", "item"): (STAGES, "whether the segment has padding"),
    ("models/segments.py:Segment.insert", "nonzero"): (2 * STAGES * ROWS, "where merged tokens go"),
    ("models/segments.py:Segment.insert", "item"): (STAGES * ROWS, "behind which token they go"),
    ("selectors/layer/dart.py:Dart.pick", "nonzero"): (
        3 * ROWS,
        "visual tokens, text tokens, tokens that stay",
    ),
    ("selectors/layer/dart.py:Dart.pick", "mask"): (ROWS, "text behind the first visual token"),
    ("selectors/layer/fastv.py:FastV.pick", "item"): (ROWS, "number of visual tokens"),
    ("selectors/layer/fastv.py:FastV.pick", "mask"): (ROWS, "attention of the visual tokens"),
    ("selectors/layer/sparsevlm.py:SparseVLM.start", "nonzero"): (
        2 * ROWS,
        "text tokens, first visual token",
    ),
    ("selectors/layer/sparsevlm.py:SparseVLM.start", "mask"): (2 * ROWS, "text behind it, visual embeddings"),
    ("selectors/layer/sparsevlm.py:raters", "nonzero"): (ROWS, "text tokens above the mean"),
    ("selectors/layer/sparsevlm.py:SparseVLM.pick", "nonzero"): (STAGES * ROWS, "rows of the raters"),
    ("selectors/layer/sparsevlm.py:SparseVLM.pick", "mask"): (
        2 * STAGES * ROWS,
        "attention and states, visual",
    ),
    ("selectors/layer/sparsevlm.py:recycled", "nonzero"): (STAGES * ROWS, "tokens that were dropped"),
}
"""Where the host waits for the GPU between the vision encoder and the prefill, and why."""
STOCK = ("models/base.py:VLMAdapter.image_features", "models/prompt.py:generate_pruned")
"""Where stock code of `transformers` is called."""


def budget_of(name):
    """A third of the tokens; the selectors that keep all or none take no budget."""
    return None if name in ("full", "blind") else Budget(keep_ratio=0.3)


def answers(model, inputs, measured):
    """Encode a batch, and generate under every selector that goes with the model.

    Args:
        model: the model.
        inputs: the batch.
        measured: calls a function and returns its result and its waits.

    Returns:
        By selector what `generate` returned, and the waits from the vision encoder on.
    """
    loaded = LoadedModel(model, None, adapter_for(model), model.config.model_type, None)
    chosen = {name: selectors.get(name) for name in selectors.available()}
    needs = frozenset().union(*(selector.needs for selector in chosen.values()))
    tokens, encoding = measured(lambda: loaded.adapter.encode(inputs, needs))
    batch, found = EncodedBatch(inputs, tokens), {}
    for name, selector in chosen.items():
        budget, layers = budget_of(name), len(loaded.adapter.layers)
        lacks = any(not image.has(need) for row in tokens for image in row for need in selector.needs)
        if lacks or any(why_not(selector, budget, row, layers) for row in tokens):
            continue
        run = partial(
            generate, loaded, batch, selector, budget, ["a", "b"], max_new_tokens=1, do_sample=False
        )
        result, waits = measured(run)
        found[name] = result, [*encoding, *waits]
    return found


def of_family(family):
    """Stock waits, and by selector its result on the CPU, its result on the GPU and its waits."""
    model = tiny_model(family)
    inputs = tiny_inputs(model, [[shape] for shape in SHAPES[family]])
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        plain = answers(model, inputs, lambda run: (run(), []))
    gpu = PretendGPU()
    gpu.move_model(model)
    model.lm_head.register_forward_hook(lambda *_: setattr(gpu, "noting", False))

    def measured(run):
        gpu.waits, gpu.noting = [], True
        return run(), gpu.waits

    with gpu.active(), torch.no_grad():
        moved = {name: tensor.to(GPU, non_blocking=True) for name, tensor in inputs.items()}
        _, stock = measured(lambda: model.generate(**moved, max_new_tokens=1, do_sample=False))
        made = answers(model, moved, measured)
    assert set(made) == set(plain)
    return stock, {name: (plain[name][0], *made[name]) for name in made}


@pytest.fixture(scope="module")
def seen():
    """`of_family` of each."""
    return {family: of_family(family) for family in SHAPES}


@pytest.mark.parametrize("family", SHAPES)
def test_devices_are_not_mixed_and_the_answers_are_those_of_a_cpu(seen, family):
    _, made = seen[family]
    assert {"zoo", "divprune", "mmtok", "cdpruner", "fastv", "sparsevlm", "full", "blind"} <= set(made)
    for name, (plain, gpu, _) in made.items():
        for rows, same in zip(plain.selected.selections, gpu.selected.selections, strict=True):
            for selection, moved in zip(rows, same, strict=True):
                assert moved.indices.device == GPU, name
                assert moved.indices.held.tolist() == selection.indices.tolist(), name
        assert gpu.new_tokens.held.tolist() == plain.new_tokens.tolist(), name
        if plain.layers is not None:
            assert gpu.layers.counts == plain.layers.counts, name


def test_each_wait_has_a_reason(seen):
    known, used = Counter({place: most for place, (most, _) in REASONS.items()}), set()
    for family, (_, made) in seen.items():
        for name, (_, _, waits) in made.items():
            own = Counter((wait.caller, wait.kind) for wait in waits if wait.caller not in STOCK)
            assert not own - known, (family, name, own - known)
            used |= set(own)
    assert used == set(REASONS)  # nothing is justified that does not happen


def test_the_number_of_waits_under_zoo(seen):
    # Placeholders of a row, those of the batch, length of the pruned prompt, kept tokens; tile layout of each image,
    # image sizes; or grids, ids and mask. `encode` also looks for the questions (2), which other selectors read here.
    for family, number in {"llava": 4, "llava_next": 4 + ROWS + 1, "qwen2_5_vl": 4 + 3}.items():
        waits = [wait for wait in seen[family][1]["zoo"][2] if wait.caller not in STOCK]
        assert len(waits) == number + 2, (family, Counter(waits))


def test_transformers_waits_as_often_as_in_stock_generate(seen):
    for family, (stock, made) in seen.items():
        expected = Counter((wait.kind, wait.function) for wait in stock)
        for name, (_, _, waits) in made.items():
            passes = 1 + ROWS if name == "resize" else 1  # it encodes each smaller image again
            mine = Counter((wait.kind, wait.function) for wait in waits if wait.caller in STOCK)
            allowed = Counter({place: passes * count for place, count in expected.items()})
            assert not mine - allowed, (family, name, mine - allowed)


def test_mixed_devices_and_waits_are_found():
    gpu = PretendGPU()
    with gpu.active(), torch.no_grad():
        there = torch.arange(3.0).to(GPU, non_blocking=True)
        with pytest.raises(RuntimeError, match="two devices"):
            there + torch.arange(3.0)
        assert not gpu.waits
        assert there.is_cuda
        assert bool(there[0] < 1)
        assert there.tolist() == [0, 1, 2]
        assert there[there > 0].cpu().tolist() == [1, 2]
        torch.tensor([1], device=GPU)
    assert [wait.kind for wait in gpu.waits] == ["item", "tolist", "mask", "to cpu", "from cpu"]
