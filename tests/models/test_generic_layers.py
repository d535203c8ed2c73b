"""Layer selectors on the decoders of every family: equal to a decoder that masks the dropped tokens, or refused."""

import pytest
import torch
from test_generic_families import QUICK, TYPES, error
from tiny_configs import IMAGE
from tiny_families import split_rows, tiny_family, tiny_prompt, with_types

import zoo_exp
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.generic_support import find_parts
from zoo_exp.models.segments import visual_left
from zoo_exp.selectors.layer.fastv import FastV

STEPS = 4
DEPTH = 3
"""Layers that see everything: behind the two that DeepStack adds to."""
_NO_PROJECTIONS = "without q_proj and k_proj"
_NOT_ITS_OUTPUT = "do not give its output"
_SPARSE = "layers of kind (indexed_attention|deepseek_sparse_attention)"  # the older name is the second
REFUSED_LAYERS = {
    "fuyu": _NO_PROJECTIONS,
    "gemma4": _NO_PROJECTIONS,
    "glm5_next": _SPARSE,
    "hunyuan_vl": _NOT_ITS_OUTPUT,
    "kimi_k25": _NO_PROJECTIONS,
    "lfm3_vl": "layers of kind conv",
    "llama4": "cannot renew the rotary positions",
    "minicpm_ocr": _NO_PROJECTIONS,
    "minicpmv4_6": _NO_PROJECTIONS,
    "minicpmv4_7": _NO_PROJECTIONS,
    "mistral_large4": _SPARSE,
    "muse_glimmer": _NOT_ITS_OUTPUT,
    "qwen3_5": _NO_PROJECTIONS,
    "qwen3_5_moe": _NO_PROJECTIONS,
    "step3p7": _NOT_ITS_OUTPUT,
}
"""Type -> part of the message: decoders on which no layer selector goes."""


@pytest.fixture(
    scope="module", params=[t if t in QUICK else pytest.param(t, marks=pytest.mark.slow) for t in TYPES]
)
def model(request):
    """A tiny random model of every type, with attention written out."""
    try:
        return tiny_family(request.param, attention="eager")
    except ValueError:
        return tiny_family(request.param)


def kept_by(pruning):
    """Numbers of the visual tokens of the first prompt that the last layer saw."""
    segments = pruning._engine.layers.segments
    return torch.tensor(visual_left(segments[0], segments[-1])[0])


def masked(llm, keep, visual):
    """Hooks that hide the visual tokens that are not in `keep` from the layers behind `DEPTH`."""

    def hide(module, args, kwargs):
        hidden = args[0] if args else kwargs["hidden_states"]
        n = hidden.shape[1]
        dropped = torch.zeros(n, dtype=torch.bool)
        dropped[visual] = True
        dropped[visual[keep]] = False
        given = kwargs.get("attention_mask")
        if given is None or given.ndim == 2:
            seen = torch.ones(n, n, dtype=torch.bool).tril()[None, None]
        else:
            seen = given if given.dtype == torch.bool else given == 0
        seen = seen & ~dropped
        seen = seen | torch.eye(n, dtype=torch.bool)  # rows of dropped tokens must not be empty
        bias = torch.zeros(seen.shape).masked_fill(~seen, torch.finfo(torch.float32).min)
        return args, {**kwargs, "attention_mask": bias}

    return [layer.register_forward_pre_hook(hide, with_kwargs=True) for layer in llm.layers[DEPTH:]]


@torch.no_grad()
def reference(model, given, keep):
    """Greedy ids and logits [STEPS, V] of one prompt, without a cache and without dropping anything."""
    ids = given["input_ids"]
    visual = (ids[0] == IMAGE).nonzero().squeeze(1)
    pixels = {
        n: v for n, v in given.items() if n not in ("input_ids", "attention_mask") and "type_ids" not in n
    }
    prompt, logits = ids.shape[1], []
    handles = masked(find_parts(model)[1], keep, visual)
    try:
        for _ in range(STEPS):
            call = with_types(
                model, {"input_ids": ids, "attention_mask": torch.ones_like(ids), **pixels}, prompt
            )
            logits.append(model(**call, use_cache=False).logits[0, -1])
            ids = torch.cat([ids, logits[-1].argmax().view(1, 1)], dim=1)
    finally:
        for handle in handles:
            handle.remove()
    return ids[0, prompt:], torch.stack(logits)


def test_fastv_equals_masking_what_it_drops_or_is_refused(model):
    given = tiny_prompt(model, (2,))
    count = int((given["input_ids"] == IMAGE).sum())
    if count < 2:
        pytest.skip("one visual token")
    kind = model.config.model_type
    if kind in REFUSED_LAYERS:
        with (
            pytest.raises(InvalidValueError, match=f"{REFUSED_LAYERS[kind]}.*take a selector before"),
            zoo_exp.pruned(model, FastV(k=DEPTH), count // 2),
        ):
            model.generate(**given, max_new_tokens=1)
        return
    check(model, given, count)


def check(model, given, count):
    """FastV against the reference."""
    options = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}
    with zoo_exp.pruned(model, FastV(k=DEPTH), count // 2) as pruning, torch.no_grad():
        out = model.generate(**given, max_new_tokens=STEPS, **options)
    keep = kept_by(pruning)
    assert len(keep) == count // 2
    ids, logits = reference(model, given, keep)
    assert error(torch.stack(out.logits)[:, 0], logits) < 1e-5
    assert torch.equal(out.sequences[0, -STEPS:], ids)


@torch.no_grad()
def attention_of(model, given):
    """Attention of the last token over the visual ones at layer `DEPTH`, mean over heads, from the model itself."""
    weights = model(**given, output_attentions=True).attentions[DEPTH - 1]
    return weights[0, :, -1].mean(dim=0)[given["input_ids"][0] == IMAGE]


@pytest.mark.parametrize(
    "decoder",
    [
        {"model_type": "phi3"},
        {"model_type": "qwen3"},
        {"model_type": "gemma2", "attn_logit_softcapping": 2.0, "query_pre_attn_scalar": 8},
        {"model_type": "cohere"},
        {"model_type": "mistral", "sliding_window": 9},
        {"model_type": "glm"},
    ],
    ids=lambda decoder: decoder["model_type"],
)
def test_decoders_of_every_make_under_a_family_with_an_adapter_of_its_own(decoder):
    """Fused projections, normalised queries and keys, a cap, windows, pairs: FastV reads the model's attention."""
    model = tiny_family("llava", attention="eager", text_config=decoder, projector_hidden_act="gelu")
    given = tiny_prompt(model)
    count = int((given["input_ids"] == IMAGE).sum())
    expected = attention_of(model, given)
    with zoo_exp.pruned(model, FastV(k=DEPTH), 6) as pruning, torch.no_grad():
        model.generate(**given, max_new_tokens=2, do_sample=False)
    keep = kept_by(pruning)
    assert keep.tolist() == sorted(expected.sort(descending=True, stable=True).indices[:6].tolist())
    if "sliding_window" not in decoder:  # a window counts what is left, so that masking is another thing
        check(model, given, count)


@pytest.mark.parametrize("model_type", ["gemma3", "qwen3_vl", "internvl"])
@pytest.mark.parametrize("selector", ["fastv", "dart", "sparsevlm"])
def test_layer_selectors_in_a_padded_batch(model_type, selector):
    model = tiny_family(model_type, attention="eager")
    given = tiny_prompt(model, (1, 1), seed=2)
    options = {} if selector == "sparsevlm" else {"k": 3}

    def run(prompt):
        return model.generate(**prompt, max_new_tokens=3, do_sample=False)[:, -3:]

    with zoo_exp.pruned(model, selector, 2, **options):
        if selector == "sparsevlm" and model_type != "internvl":
            expected = "DeepStack" if model_type == "qwen3_vl" else "merges tokens between layers"
            with pytest.raises(InvalidValueError, match=expected):
                run(given)
            return
        assert torch.equal(run(given), torch.cat([run(one) for one in split_rows(model, given)]))


def test_a_layer_selector_before_deepstack_is_refused_with_what_to_type():
    model = tiny_family("qwen3_vl")
    with zoo_exp.pruned(model, "fastv", 2, k=2), pytest.raises(InvalidValueError, match=r"DeepStack.*k=3"):
        model(**tiny_prompt(model))
