"""Quantised, wrapped and compiled models, kept caches, and threads: correct or refused."""

import threading
import warnings

import pytest
import torch
from tiny_configs import IMAGE
from tiny_families import tiny_family, tiny_prompt
from torch import nn
from transformers import DynamicCache
from transformers.generation.streamers import BaseStreamer

import zoo_exp
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.holders import held_model
from zoo_exp.models.tiny import tiny_inputs, tiny_model

OWN = {"llava": ((56, 56),), "llava_next": ((100, 56),), "qwen2_5_vl": ((56, 84),)}
OTHERS = ("gemma3", "internvl", "qwen3_vl")


def greedy(model, given, steps=4, **options):
    with torch.no_grad():
        return model.generate(**given, max_new_tokens=steps, do_sample=False, **options)


def made(family):
    """A model and a prompt with one image."""
    if family in OWN:
        model = tiny_model(family)
        return model, tiny_inputs(model, [OWN[family]])
    model = tiny_family(family)
    return model, tiny_prompt(model)


class Int8Linear(nn.Module):
    """Weights in int8 with a scale per row, as bitsandbytes, quanto and torchao keep them."""

    def __init__(self, linear):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        scale = linear.weight.detach().abs().amax(1, keepdim=True) / 127
        weight = (linear.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(weight, requires_grad=False)
        self.bias = linear.bias
        self.register_buffer("scale", scale)

    def forward(self, x):
        """As `nn.Linear`, and never on integers."""
        assert x.is_floating_point()
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale, self.bias)


def quantised(model, keep_integers):
    """All linear layers but the head in int8, or with the same values in float32."""
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if type(child) is nn.Linear and name != "lm_head":
                int8 = Int8Linear(child)
                if keep_integers:
                    setattr(module, name, int8)
                else:
                    child.weight.data.copy_(int8.weight.float() * int8.scale)
    return model


@pytest.mark.parametrize("family", [*OWN, *OTHERS])
def test_a_quantised_projector_scores_as_its_dequantised_weights(family):
    scores = []
    for keep_integers in (False, True):
        model, given = made(family)
        quantised(model, keep_integers)
        with zoo_exp.pruned(model, "zoo", 2, n_directions=8) as pruning, torch.no_grad():
            model(**given)
        scores.append(pruning.selections[0][0].scores.float())
    torch.testing.assert_close(scores[0], scores[1], rtol=0.05, atol=0.01 * float(scores[0].abs().max()))


@pytest.mark.parametrize("family", ["llava", "llava_next"])
def test_tokens_that_visionzip_merges_pass_a_quantised_projector(family):
    """It projects features itself, which must not be cast to the integers of the weights."""
    logits = []
    for keep_integers in (False, True):
        model, given = made(family)
        quantised(model, keep_integers)
        with zoo_exp.pruned(model, "visionzip", 4) as pruning, torch.no_grad():
            logits.append(model(**given).logits[:, -1])
        assert pruning.kept_tokens == [4]
    torch.testing.assert_close(logits[0], logits[1], rtol=0.05, atol=0.01 * float(logits[0].abs().max()))


@pytest.mark.parametrize("family", ["llava", "internvl"])
def test_dynamic_quantisation(family):
    model, given = made(family)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
    expected = greedy(model, given)
    with zoo_exp.pruned(model, "full"):
        assert torch.equal(greedy(model, given), expected)
    with zoo_exp.pruned(model, "divprune", 2) as pruning:
        greedy(model, given)
    assert pruning.kept_tokens == [2]
    with zoo_exp.pruned(model, "zoo", 2) as pruning:
        if family == "internvl":  # the scale of the activations lets rows depend on each other
            with pytest.raises(InvalidValueError, match="no module is found that maps rows"):
                greedy(model, given)
            return
        greedy(model, given)
    assert pruning.kept_tokens == [2]


class Wrapped(nn.Module):
    """Has the shape of `peft.PeftModel`: attributes fall through, and `get_base_model` gives the model."""

    def __init__(self, model):
        super().__init__()
        self.inside = model
        self.config = model.config

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("inside"), name)

    def get_base_model(self):
        """The model without its adapters."""
        return self.inside

    def generate(self, *args, **kwargs):
        """The model's own."""
        return self.inside.generate(*args, **kwargs)


@pytest.mark.parametrize("family", ["llava", "qwen3_vl"])
def test_a_peft_model_is_pruned_through_its_wrapper(family):
    model, given = made(family)
    wrapped = Wrapped(model)
    with zoo_exp.pruned(model, "divprune", 2):
        expected = greedy(model, given)
    with zoo_exp.pruned(wrapped, "divprune", 2) as pruning:
        assert torch.equal(greedy(wrapped, given), expected)
    assert pruning.kept_tokens == [2]
    zoo_exp.attach(wrapped, "divprune", 2)
    zoo_exp.detach(wrapped)


def test_data_parallel_is_refused_with_what_to_give():
    model, _ = made("llava")
    with pytest.raises(InvalidValueError, match=r"DataParallel cannot be pruned.*model\.module"):
        zoo_exp.attach(nn.DataParallel(model), "divprune", 2)


@pytest.fixture
def one_process():
    """A process group of this process alone."""
    from torch import distributed

    distributed.init_process_group("gloo", store=distributed.HashStore(), rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


def test_fsdp_is_refused_with_what_to_give(one_process):
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import FullyShardedDataParallel, fully_shard

    model, _ = made("llava")
    wrapped = FullyShardedDataParallel(model, device_id=torch.device("cpu"))
    with pytest.raises(InvalidValueError, match="FullyShardedDataParallel cannot be pruned"):
        zoo_exp.attach(wrapped, "divprune", 2)
    model, _ = made("internvl")
    fully_shard(model.model.language_model.layers[0], mesh=init_device_mesh("cpu", (1,)))
    with pytest.raises(InvalidValueError, match="fully_shard has split its weights"):
        zoo_exp.attach(model, "divprune", 2)


@pytest.mark.slow
def test_a_compiled_model_is_never_silently_unpruned():
    """The compiled call is refused, `generate` is pruned, and after the block the compiled call is whole again.

    In the first block nothing has been traced yet; in the second, the whole call has been.
    """
    model = tiny_model("llava", layers=1)  # tracing takes long
    given = tiny_inputs(model, [OWN["llava"]])
    with torch.no_grad():
        plain = model(**given).logits
        compiled = torch.compile(model, backend="eager")
        assert held_model(compiled) is model
        for _ in range(2):
            with zoo_exp.pruned(compiled, "divprune", 2) as pruning:
                with pytest.raises(InvalidValueError, match=r"torch\.compile.*inside the block"):
                    compiled(**given)
                greedy(compiled, given, 2)
                assert pruning.kept_tokens == [2]
            torch.testing.assert_close(compiled(**given).logits, plain, rtol=1e-4, atol=1e-4)
    torch.compiler.reset()


@pytest.mark.parametrize("family", ["llava", "llava_next", "internvl"])
@pytest.mark.parametrize("selector", [("divprune", 3), ("fastv", 3)], ids=["divprune", "fastv"])
@pytest.mark.parametrize("helper", ["assistant", "lookup"])
def test_assisted_generation_gives_the_greedy_ids_or_is_refused(family, selector, helper):
    model, given = made(family)
    draft = tiny_model(family, layers=2, seed=10) if family in OWN else tiny_family(family, seed=10)
    options = {"assistant_model": draft} if helper == "assistant" else {"prompt_lookup_num_tokens": 3}
    with zoo_exp.pruned(model, *selector):
        expected = greedy(model, given, 8)
        if selector[0] == "divprune":
            assert torch.equal(greedy(model, given, 8, **options), expected)
            return
        try:
            assert torch.equal(greedy(model, given, 8, **options), expected)
        except InvalidValueError as refusal:
            message = str(refusal)
        else:
            return
    assert "take a selector before the language model" in message


@pytest.mark.parametrize("family", OTHERS)
def test_a_text_turn_on_a_kept_cache(family):
    model, given = made(family)
    more = torch.tensor([[11, 12, 13]])
    with zoo_exp.pruned(model, "divprune", 2):
        cache = DynamicCache(config=model.config.get_text_config())
        first = greedy(model, given, 3, past_key_values=cache)
        ids = torch.cat([first, more], dim=1)
        second = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            past_key_values=cache,
            max_new_tokens=3,
            do_sample=False,
        )
        whole = dict(given)
        whole["input_ids"] = ids
        whole["attention_mask"] = torch.ones_like(ids)
        for name in ("mm_token_type_ids", "token_type_ids"):
            if name in whole:
                whole[name] = (ids == IMAGE).long()
        assert torch.equal(greedy(model, whole, 3)[:, -3:], second[:, -3:])


@pytest.mark.parametrize("family", OTHERS)
def test_static_cache_beams_logits_to_keep_and_streaming(family):
    model, given = made(family)

    class Collect(BaseStreamer):
        def __init__(self):
            self.ids = []

        def put(self, value):
            self.ids += value.flatten().tolist()

        def end(self):
            pass

    streamer = Collect()
    with zoo_exp.pruned(model, "divprune", 2) as pruning:
        expected = greedy(model, given)
        assert torch.equal(greedy(model, given, cache_implementation="static"), expected)
        assert torch.equal(greedy(model, given, streamer=streamer), expected)
        assert streamer.ids == expected[0].tolist()
        assert greedy(model, given, num_beams=3, num_return_sequences=2).shape[0] == 2
        with torch.no_grad():
            last, whole = model(**given, logits_to_keep=1).logits, model(**given).logits
        torch.testing.assert_close(last[:, -1], whole[:, -1], rtol=1e-4, atol=1e-4)
        assert whole.shape[1] == given["input_ids"].shape[1]
    assert pruning.kept_tokens == [2]


@pytest.mark.parametrize("family", OTHERS)
def test_several_threads(family):
    model, given = made(family)
    other = tiny_prompt(model, (1,), seed=9)
    wrong = []
    with zoo_exp.pruned(model, "zoo", 2, n_directions=4):
        expected = [greedy(model, given), greedy(model, other)]

        def serve(number):
            try:
                for _ in range(3):
                    if not torch.equal(greedy(model, (given, other)[number]), expected[number]):
                        wrong.append(number)
            except Exception as error:
                wrong.append(repr(error))

        threads = [threading.Thread(target=serve, args=(i % 2,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []


def test_the_self_check_names_the_family_and_can_be_disabled(monkeypatch):
    from zoo_exp.models import self_check

    model, given = made("internvl")
    monkeypatch.setattr(self_check, "_difference", lambda *_: 0.3)
    with (
        zoo_exp.pruned(model, "divprune", 2),
        pytest.raises(InvalidValueError, match=r"internvl cannot be pruned.*3\.0e-01.*self_check=False"),
    ):
        greedy(model, given, 1)
    with zoo_exp.pruned(model, "divprune", 2, self_check=False) as pruning:
        greedy(model, given, 1)
    assert pruning.kept_tokens == [2]


def test_the_self_check_runs_once(monkeypatch):
    from zoo_exp.models import self_check

    model, given = made("internvl")
    seen = []
    difference = self_check._difference
    monkeypatch.setattr(self_check, "_difference", lambda *a: seen.append(1) or difference(*a))
    with zoo_exp.pruned(model, "divprune", 2):
        greedy(model, given, 1)
        greedy(model, given, 1)
    assert seen == [1]
