"""`pruned`, `attach`, `detach`: hooks are removed, and every misuse has a message."""

import inspect
import subprocess
import sys

import pytest
import torch
from own_families import FAMILIES
from transformers import DynamicCache, LlamaConfig, LlamaForCausalLM, StaticCache

import zoo_exp
import zoo_exp.models.tiny
from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.models.families import adapter_for
from zoo_exp.selectors import get

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_forward_hooks_with_kwargs")


def state(model):
    """Everything on a model that an engine could leave behind: hooks, attributes, methods."""
    found = {}
    for name, module in model.named_modules():
        found[name] = (
            {key: tuple(map(id, getattr(module, key).values())) for key in HOOKS},
            {key: id(value) for key, value in module.__dict__.items() if not key.startswith("_")},
            set(module.__dict__),
        )
    found["forward"] = (type(model).forward, type(model.model).get_image_features)
    return found


def stop(*_):
    """A hook that ends the pass."""
    raise RuntimeError("stop")


@pytest.mark.parametrize("selector", [("zoo", 3), ("fastv", 3)])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_hooks_remain(family, selector, models, inputs, answer):
    model = models(family)
    given = inputs(model, "one")
    answer(model, given, steps=2)  # Qwen notes its last rope deltas by itself
    before = state(model)
    with zoo_exp.pruned(model, *selector):
        assert state(model) != before
        answer(model, given, steps=2)
    after = state(model)
    if family == "qwen2_5_vl":
        for found in (before, after):
            found["model"][1].pop("rope_deltas")
    assert after == before


@pytest.mark.parametrize("family", FAMILIES)
def test_no_hooks_remain_after_an_error(family, models, inputs, answer):
    model = models(family)
    given = inputs(model, "one")
    plain = answer(model, given, steps=2)
    before = {name: found[0] for name, found in state(model).items() if name != "forward"}
    handle = model.lm_head.register_forward_pre_hook(stop)
    with pytest.raises(RuntimeError, match="stop"), zoo_exp.pruned(model, "zoo", 3):
        answer(model, given, steps=2)
    handle.remove()
    assert {name: found[0] for name, found in state(model).items() if name != "forward"} == before
    assert "get_image_features" not in model.model.__dict__
    with pytest.raises(InvalidValueError, match="budget 4000"), zoo_exp.pruned(model, "zoo", 4000):
        answer(model, given, steps=2)
    again = answer(model, given, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(plain, again, strict=True))


def test_an_error_inside_one_call_does_not_spoil_the_next(models, inputs, answer, every):
    model = models("llava")
    given = inputs(model, "one")
    with zoo_exp.pruned(model, every()) as pruning:
        expected = answer(model, given)
        handle = model.model.language_model.layers[1].register_forward_pre_hook(stop)
        with pytest.raises(RuntimeError, match="stop"):
            answer(model, given)
        handle.remove()
        assert torch.equal(answer(model, given)[1], expected[1])
        assert pruning.kept_tokens == [6]


def test_attach_and_detach(models, inputs, answer):
    model = models("llava")
    given = inputs(model, "two images")
    handle = zoo_exp.attach(model, "random", 4, seed=3)
    with pytest.raises(InvalidValueError, match="being pruned already"):
        zoo_exp.attach(model, "zoo", 4)
    answer(model, given, steps=1)
    assert handle.kept_tokens == [8]
    assert [s.kept_tokens for s in handle.selections[0]] == [4, 4]
    assert handle.layer_counts == [[8] * 4]
    assert not torch.equal(
        *(s.indices for s in handle.selections[0])
    )  # an image's number is part of its seed
    zoo_exp.detach(model)
    with pytest.raises(InvalidValueError, match="nothing to detach"):
        zoo_exp.detach(model)


def test_the_name_of_a_selector_configuration_works(models, inputs, answer):
    model = models("llava")
    with zoo_exp.pruned(model, "zoo_closed_form", 3) as named:
        first = answer(model, inputs(model, "one"))
    with zoo_exp.pruned(model, "zoo", 3, estimator="closed_form"):
        second = answer(model, inputs(model, "one"))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert (named.selector.name, named.selector.estimator) == ("zoo", "closed_form")


def test_selections_depend_on_seeds_and_not_on_batches(models, inputs, answer):
    model = models("llava")
    given = inputs(model, "ragged")
    kept = []
    for seed in (0, 0, 1):
        with zoo_exp.pruned(model, "random", 5, seed=seed) as pruning:
            answer(model, given, steps=1)
        kept.append([s.indices.tolist() for row in pruning.selections for s in row])
    assert kept[0] == kept[1] != kept[2]
    with zoo_exp.pruned(model, "random", 5) as pruning:
        answer(model, inputs(model, "one"), steps=1)
    assert pruning.selections[0][0].indices.tolist() == kept[0][0]


@pytest.mark.parametrize("selector", ["fastv", "dart", "sparsevlm"])
def test_a_layer_selector_reports_kept_tokens(selector, models, inputs, answer):
    model = models("llava_next")
    given = inputs(model, "one")
    with zoo_exp.pruned(model, selector, "22.2%") as pruning:
        answer(model, given, steps=1)
    n = int((given["input_ids"] == model.config.image_token_id).sum())
    counts = pruning.layer_counts[0]
    assert counts[0] == pruning.kept_tokens[0] == n
    assert sorted(counts, reverse=True) == counts
    for layer, rows in pruning._engine.layers.answers.items():
        merged = 0 if rows[0].merged is None else len(rows[0].merged)
        assert counts[layer + 1] == len(rows[0].indices) + merged < counts[layer]


def test_sparsevlm_by_rank(models, inputs, answer):
    model = models("llava_next")
    deeper = zoo_exp.models.tiny.tiny_model("llava_next", layers=6)
    given = inputs(model, "ragged")
    with zoo_exp.pruned(deeper, "sparsevlm", "33.3%", version="1.0") as pruning:
        answer(deeper, given, steps=2)
    assert all(sorted(row, reverse=True) == row for row in pruning.layer_counts)
    assert pruning.layer_counts[0][-1] < pruning.layer_counts[0][0]


def test_sampling_and_several_answers(models, inputs, every):
    model = models("llava")
    given = inputs(model, "one")
    with zoo_exp.pruned(model, every()):
        torch.manual_seed(0)
        first = model.generate(**given, do_sample=True, num_return_sequences=3, max_new_tokens=4)
        torch.manual_seed(0)
        second = model.generate(**given, do_sample=True, num_return_sequences=3, max_new_tokens=4)
    assert torch.equal(first, second)
    assert len(first) == 3


@pytest.mark.parametrize("selector", ["every", "fastv"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_later_turn_on_a_kept_cache(family, selector, models, inputs, every, answer):
    model = models(family)
    given = inputs(model, "one")
    rule = every() if selector == "every" else get("fastv")
    budget = None if selector == "every" else 0.5
    question = torch.tensor([[11, 12, 13]])
    with zoo_exp.pruned(model, rule, budget), torch.no_grad():
        first = model.generate(**given, max_new_tokens=3, do_sample=False, return_dict_in_generate=True)
        longer = torch.cat([first.sequences, question], dim=1)
        more = {"attention_mask": torch.ones_like(longer)}
        text = {k: v for k, v in given.items() if k == "mm_token_type_ids"}
        if text:
            text = {"mm_token_type_ids": torch.nn.functional.pad(text["mm_token_type_ids"], (0, 6))}
        follow_up = model.generate(
            longer, past_key_values=first.past_key_values, max_new_tokens=3, do_sample=False, **more
        )
        whole = model.generate(
            **{**given, "input_ids": longer, **more, **text}, max_new_tokens=3, do_sample=False
        )
    if selector == "every":
        assert torch.equal(follow_up[:, -3:], whole[:, -3:])
    else:  # the later question is another last token, so from scratch FastV keeps other tokens
        assert follow_up.shape == whole.shape


def test_a_manual_loop(models, inputs, answer, every):
    model = models("llava")
    given = inputs(model, "one")
    with zoo_exp.pruned(model, every()), torch.no_grad():
        expected = answer(model, given, steps=4)[0]
        cache, ids, step = DynamicCache(), [], given
        for _ in range(4):
            out = model(**step, past_key_values=cache, use_cache=True)
            ids.append(out.logits[:, -1].argmax(-1))
            step = {"input_ids": ids[-1][:, None]}
    assert torch.equal(torch.stack(ids, 1), expected)


def test_a_second_image_on_a_full_cache_is_refused(models, inputs, every):
    model = models("llava")
    given = inputs(model, "one")
    cache = DynamicCache()
    with zoo_exp.pruned(model, every()), torch.no_grad():
        model(**given, past_key_values=cache, use_cache=True)
        with pytest.raises(InvalidValueError, match="pass the whole conversation"):
            model(**given, past_key_values=cache, use_cache=True)


def test_a_static_cache_that_is_too_small_is_refused(models, inputs, every):
    model = models("llava")
    small = StaticCache(config=model.config.get_text_config(), max_cache_len=12)
    with (
        zoo_exp.pruned(model, every()),
        torch.no_grad(),
        pytest.raises(InvalidValueError, match="room for 12 tokens"),
    ):
        model(**inputs(model, "one"), past_key_values=small, use_cache=True)


def test_placeholders_that_do_not_fit_the_images(models, inputs, every):
    model = models("llava")
    given = inputs(model, "one")
    shorter = {**given, "input_ids": given["input_ids"].clone()}
    shorter["input_ids"][0, 8] = 5
    adapter = adapter_for(model)
    with pytest.raises(InvalidValueError, match=r"row 0 has 15 image placeholders"):
        adapter.encode(shorter, frozenset())
    with pytest.raises(InvalidValueError, match="no pixel_values"):
        adapter.encode({"input_ids": given["input_ids"]}, frozenset())
    text = {**given, "input_ids": torch.full_like(given["input_ids"], 5)}
    with pytest.raises(InvalidValueError, match="1 of 1 images have no placeholder"):
        adapter.encode(text, frozenset())
    # Inside a running model the model itself refuses it; the engine leaves the model as it was.
    with pytest.raises(ValueError, match="do not match"), zoo_exp.pruned(model, every()):
        model(**shorter)
    assert "get_image_features" not in model.model.__dict__
    with zoo_exp.pruned(model, every()), pytest.raises(InvalidValueError, match="no image came with it"):
        model.generate(given["input_ids"], max_new_tokens=1)


def test_a_video_to_a_model_without_video_is_refused(models, inputs, every):
    model = models("llava")
    given = inputs(model, "one")
    video = {"input_ids": given["input_ids"], "pixel_values_videos": given["pixel_values"][None]}
    message = "model type 'llava' takes images, but no videos: give frames of the video as images"
    with zoo_exp.pruned(model, every()):
        with pytest.raises(InvalidValueError, match=message):
            model.generate(**video, max_new_tokens=1)
        with pytest.raises(InvalidValueError, match=message):
            model(**video)
    assert "_validate_model_kwargs" not in model.__dict__


def test_features_from_elsewhere_are_refused(models, inputs, every):
    model = models("llava")
    if "mm_encoder_outputs" not in inspect.signature(model.forward).parameters:
        pytest.skip("this version of transformers takes no image features from elsewhere")
    given = inputs(model, "one")
    pixels = given.pop("pixel_values")
    with torch.no_grad():
        encoded = model.model.get_image_features(pixels, return_dict=True)
        other = model.model.get_image_features(pixels.flip(-1), return_dict=True)
        with zoo_exp.pruned(model, every()):
            with pytest.raises(InvalidValueError, match="before pruning was switched on"):
                model(**given, mm_encoder_outputs={"image": encoded})
            model.model.get_image_features(pixels, return_dict=True)
            with pytest.raises(InvalidValueError, match="not those of the last"):
                model(**given, mm_encoder_outputs={"image": other})


def test_models_of_other_families_are_refused():
    config = LlamaConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1, vocab_size=8
    )
    with pytest.raises(
        InvalidValueError, match=r"model type 'llama' is no vision-language model.*docs/models.md"
    ):
        zoo_exp.attach(LlamaForCausalLM(config), "zoo", 4)
    with pytest.raises(InvalidValueError, match="model type 'Linear' is no vision-language model"):
        zoo_exp.attach(torch.nn.Linear(1, 1), "zoo", 4)


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        (("zooo", 4), {}, UnknownNameError, "Did you mean 'zoo'"),
        (("zoo", 4), {"positions": "same"}, InvalidValueError, "allowed are contiguous, original"),
        (("zoo", 4), {"fuson": "sum"}, UnknownNameError, "fusion"),
        (("zoo", "many"), {}, InvalidValueError, "not a number"),
        ((get("zoo"), 4), {"fusion": "sum"}, InvalidValueError, "require a selector's name"),
        ((3, 4), {}, InvalidValueError, "neither a name nor a selector"),
        (("fastv", 4), {"k": 4}, InvalidValueError, "give at most 3"),
    ],
)
def test_bad_arguments(arguments, options, error, message, models):
    model = models("llava")
    with pytest.raises(error, match=message):
        zoo_exp.attach(model, *arguments, **options)
    with pytest.raises(InvalidValueError, match="nothing to detach"):
        zoo_exp.detach(model)


def test_the_engine_imports_no_evaluation_packages():
    code = (
        "import sys, zoo_exp; zoo_exp.pruned; zoo_exp.load_model; import zoo_exp.models.tiny as t;"
        "m = t.tiny_model('llava'); g = t.tiny_inputs(m)\n"
        "with zoo_exp.pruned(m, 'zoo', 4): m.generate(**g, max_new_tokens=1)\n"
        "print([n for n in ('lightning', 'wandb', 'datasets', 'torchmetrics', 'hydra') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, zoo_exp; print([n for n in ('torch', 'transformers', 'numpy') if n in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    with pytest.raises(AttributeError, match="no attribute 'prunde'"):
        _ = zoo_exp.prunde
