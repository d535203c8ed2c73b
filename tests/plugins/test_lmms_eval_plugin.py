"""The lmms-eval plug-in against a stand-in for lmms-eval (or the real one, where it can be imported)."""

import importlib
import sys
import tomllib
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from lmms_eval_stand_in import modules

import zoo_exp
from zoo_exp import tasks
from zoo_exp.core.seeding import generator_for
from zoo_exp.embedded import benchmarks
from zoo_exp.embedded.model import make_model, make_processor
from zoo_exp.errors import InvalidValueError, MissingFileError, UnknownNameError
from zoo_exp.lmms_eval_plugin import answers, manifests
from zoo_exp.lmms_eval_plugin.answers import Settings
from zoo_exp.lmms_eval_plugin.turns import from_context, from_messages
from zoo_exp.models.chat import chat_inputs
from zoo_exp.models.families import adapter_for
from zoo_exp.models.loading import LoadedModel
from zoo_exp.models.responses import cut
from zoo_exp.selectors.layer.fastv import FastV

ROOT = Path(__file__).resolve().parents[2]
REAL = find_spec("lmms_eval") is not None
NAME = "zoo_exp.lmms_eval_plugin.models"
TASK, SPLIT = "embedded_pope", "test"


@pytest.fixture(scope="module")
def loaded():
    """The embedded architecture with random weights: it babbles, and every token matters."""
    model, processor = make_model(seed=3), make_processor()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.5)
    processor.tokenizer.padding_side = "left"
    model.eval()
    return LoadedModel(model, processor, adapter_for(model, processor), "embedded", 144)


@pytest.fixture
def models(monkeypatch, loaded):
    """The module of the classes, as lmms-eval would import it; loading a model takes no time."""
    if not REAL:
        for name, module in modules().items():
            monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    module = importlib.import_module(NAME)
    module.loads = []

    def load_model(path, **settings):
        module.loads.append((path, settings))
        return loaded

    monkeypatch.setattr(module, "load_model", load_model)
    yield module
    sys.modules.pop(NAME, None)


@dataclass
class Request:
    """What the plug-in reads of lmms-eval's `Instance`."""

    args: tuple


ROWS = benchmarks.rows("pope", limit=7)
GREEDY = {"max_new_tokens": 5, "temperature": 0, "top_p": 1.0, "num_beams": 1, "until": ["\n\n"]}


def question(doc):
    return tasks.get(TASK).prompt(doc, "embedded")


def visuals(doc):
    return [doc["image"].convert("RGB")]


def messages(doc):
    picture = {"type": "image", "url": visuals(doc)[0]}
    return [{"role": "user", "content": [picture, {"type": "text", "text": question(doc)}]}]


def make(models, kind, **given):
    model = getattr(models, f"ZooExp{kind}")(**{"pretrained": "embedded", "batch_size": 3, **given})
    model.task_dict = {TASK: {SPLIT: ROWS}}
    return model


def requests(kind, places, settings=GREEDY):
    made = []
    for place in places:
        given = dict(settings[place] if isinstance(settings, list) else settings)
        text = question(ROWS[place])
        middle = (given, visuals) if kind == "Simple" else (messages, given)
        made.append(Request((text, *middle, place, TASK, SPLIT)))
    return made


def texts(results):
    return [result.text for result in results]


def slowly(loaded, selector, place, budget=None, new=5):
    """One question on its own, through the context manager that users of any script have."""
    turn = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": question(ROWS[place])}]}]
    text = loaded.processor.apply_chat_template(turn, add_generation_prompt=True)
    inputs = loaded.processor(text=[text], images=visuals(ROWS[place]), return_tensors="pt")
    with zoo_exp.pruned(loaded, selector, budget), torch.inference_mode():
        ids = loaded.model.generate(**inputs, max_new_tokens=new, do_sample=False)
    new_ids = ids[:, inputs["input_ids"].shape[1] :]
    return loaded.processor.batch_decode(new_ids, skip_special_tokens=True)[0].split("\n\n")[0].strip()


def test_the_entry_point_gives_a_class_for_each_kind(models):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    target = project["entry-points"]["lmms_eval.models"]["zoo_exp"]
    module, _, function = target.partition(":")
    manifest = getattr(importlib.import_module(module), function)()
    assert manifest == manifests()
    assert manifest.model_id == "zoo_exp"
    base = sys.modules["lmms_eval.api.model"].lmms
    for path, simple in ((manifest.simple_class_path, True), (manifest.chat_class_path, False)):
        module, _, name = path.rpartition(".")
        found = getattr(importlib.import_module(module), name)
        assert issubclass(found, base)
        assert found.is_simple is simple
        assert not found.__abstractmethods__


@pytest.mark.skipif(not REAL, reason="lmms-eval is not installed")
def test_the_references_registry_resolves_both_kinds(models):
    from lmms_eval.models.registry_v2 import ModelRegistryV2

    registry = ModelRegistryV2()
    registry.register_manifest(manifests())
    assert registry.get_model_class("zoo_exp") is models.ZooExpChat
    assert registry.get_model_class("zoo_exp", force_simple=True) is models.ZooExpSimple


def test_arguments_are_parsed_from_a_string(models):
    text = "pretrained=embedded,selector=zoo,budget=16,fusion=sum,dtype=float32"
    model = models.ZooExpChat.create_from_arg_string(text, {"batch_size": "4", "device": None})
    assert (model.answerer.selector.fusion, model.answerer.budget.resolve(144)) == ("sum", 16)
    assert model.batch_size == 4
    ((path, settings),) = models.loads
    assert (path, settings["dtype"], settings["attention"]) == ("embedded", "float32", "sdpa")
    assert (model.rank, model.world_size, model.device) == (0, 1, torch.device("cpu"))


def test_the_protocol_is_passed_on_and_said(models, caplog):
    models.ZooExpSimple("embedded", "full", protocol="llava")
    assert models.loads[-1][1]["protocol"] == "llava"
    assert "zoo_exp: protocol hf: the checkpoint's chat template" in caplog.text  # of the model in its place


@pytest.mark.parametrize("kind", ["Chat", "Simple"])
@pytest.mark.parametrize(("selector", "budget"), [("full", None), ("divprune", 16), ("visionzip", "11.1%")])
def test_answers_equal_those_of_a_plain_script(models, loaded, kind, selector, budget):
    model = make(models, kind, selector=selector, budget=budget)
    results = model.generate_until(requests(kind, range(7)))
    wanted = [slowly(loaded, selector, place, budget) for place in range(7)]
    assert texts(results) == wanted
    assert len(set(wanted)) > 1
    assert all(1 <= result.token_counts.output_tokens <= 5 for result in results)
    text_tokens = [result.token_counts.input_tokens for result in results]
    assert (min(text_tokens) > 144) == (selector == "full")


def test_pruning_changes_answers(models):
    full = make(models, "Chat", selector="full").generate_until(requests("Chat", range(7)))
    few = make(models, "Chat", selector="divprune", budget=2).generate_until(requests("Chat", range(7)))
    assert texts(full) != texts(few)


def test_a_layer_selector_prunes_inside_the_model(models, loaded):
    model = make(models, "Chat", selector="fastv", budget=16, k=1)
    results = model.generate_until(requests("Chat", range(4)))
    assert texts(results) == [slowly(loaded, FastV(k=1), place, 16) for place in range(4)]


def test_order_batch_and_settings_of_others_do_not_change_an_answer(models):
    """Requests of two kinds of settings, in any order and any batches."""
    settings = [{**GREEDY, "max_new_tokens": 2 + 4 * (place % 2)} for place in range(7)]
    alone = make(models, "Chat", selector="random", budget=16, batch_size=1)
    together = make(models, "Chat", selector="random", budget=16, batch_size=7)
    wanted = texts(alone.generate_until(requests("Chat", range(7), settings)))
    order = [3, 0, 6, 2, 5, 1, 4]
    mixed = together.generate_until(requests("Chat", order, settings))
    assert texts(mixed) == [wanted[place] for place in order]
    assert [r.token_counts.output_tokens <= 2 for r in mixed] == [place % 2 == 0 for place in order]


def test_seeds_equal_those_of_a_run(models, loaded):
    """A run seeds an image with (seed, task/sample/repetition, number of the image)."""
    model = make(models, "Chat", selector="random", budget=16, seed=5)
    answerer = model.answerer
    chats = [model._request(request) for request in requests("Chat", range(3))]
    inputs = chat_inputs(loaded.processor, chats)
    visual = loaded.adapter.encode(inputs, answerer.selector.needs)
    found = answerer.answer(chats, answers.Settings.read(GREEDY))
    for row, images, ours in zip(ROWS, visual, found, strict=False):
        sample = tasks.get(TASK).sample_id(row)
        generator = generator_for(5, f"{TASK}/{sample}/0", 0)
        wanted = answerer.selector.select(images[0], 16, generator)
        assert torch.equal(ours.selections[0].indices, wanted.indices)
    assert models.sample_name("somebodys_task", {}, 7) == "somebodys_task/7/0"
    assert models.sample_name("embedded_gqa", {}, 7) == "embedded_gqa/7/0"  # a row without our id
    assert models.sample_name("embedded_scienceqa", {}, 7) == "embedded_scienceqa/7/0"


def test_every_answer_is_added_to_the_cache(models):
    model = make(models, "Simple", selector="divprune", budget=16)
    heard = []

    class Hook:
        def add_partial(self, kind, request, answer):
            heard.append((kind, request, answer))

    model.cache_hook = Hook()
    asked = requests("Simple", range(2))
    results = model.generate_until(asked)
    assert heard == [
        ("generate_until", (request.args[0], GREEDY), result.text)
        for request, result in zip(asked, results, strict=True)
    ]


def test_clean_frees_the_model_and_the_next_request_loads_it_again(models):
    model = make(models, "Chat", selector="divprune", budget=16)
    before = texts(model.generate_until(requests("Chat", range(2))))
    model.clean()
    assert model._answerer is None
    assert texts(model.generate_until(requests("Chat", range(2)))) == before
    assert len(models.loads) == 2


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"selector": "zo"}, UnknownNameError, "unknown selector 'zo'"),
        ({"selector": "zoo", "budget": 16, "fusin": "sum"}, UnknownNameError, "Did you mean 'fusion'"),
        ({"selector": "zoo", "bugdet": 16}, UnknownNameError, "Did you mean 'budget'"),
        ({"selector": "zoo", "budget": 16, "fusion": "plus"}, InvalidValueError, "fusion 'plus'"),
        ({"selector": "zoo"}, InvalidValueError, "needs a budget: add budget=64"),
        ({"selector": "full", "budget": 16}, InvalidValueError, "takes no budget: remove budget=16"),
        ({"selector": "zoo", "budget": "many"}, InvalidValueError, "many"),
        ({"batch_size": "auto"}, InvalidValueError, "batch_size auto: give a whole number"),
        ({"batch_size": 0}, InvalidValueError, "batch_size 0"),
    ],
)
def test_an_invalid_argument_is_refused_before_a_model_is_loaded(models, given, error, message):
    with pytest.raises(error, match=message):
        make(models, "Chat", **given)
    assert models.loads == []


def test_a_budget_above_the_models_tokens_is_refused(models):
    with pytest.raises(InvalidValueError, match=r"145.*144"):
        make(models, "Chat", selector="zoo", budget=145)


def test_unsupported_request_types_are_refused(models):
    model = make(models, "Chat", selector="full")
    with pytest.raises(InvalidValueError, match="this task needs loglikelihood"):
        model.loglikelihood([])
    with pytest.raises(InvalidValueError, match="several rounds"):
        model.generate_until_multi_round([])


def test_without_lmms_eval_the_error_names_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "lmms_eval.api.instance", None)
    monkeypatch.delitem(sys.modules, NAME, raising=False)
    module = importlib.import_module(NAME)
    sys.modules.pop(NAME)
    with pytest.raises(MissingFileError, match="pip install lmms-eval"):
        module.ZooExpChat(pretrained="embedded")


@pytest.mark.parametrize(
    ("given", "until", "options"),
    [
        ({}, (), {"max_new_tokens": 128, "do_sample": False, "num_beams": 1}),
        (GREEDY, ("\n\n",), {"max_new_tokens": 5, "do_sample": False, "num_beams": 1}),
        ({"until": "ASSISTANT:", "num_beams": 3, "temperature": 0.7, "do_sample": False},
         ("ASSISTANT:",), {"max_new_tokens": 128, "do_sample": False, "num_beams": 3}),
        ({"temperature": 0.7, "max_new_tokens": 9},
         (), {"max_new_tokens": 9, "do_sample": True, "num_beams": 1, "temperature": 0.7, "top_p": 1.0}),
    ],
)  # fmt: skip
def test_settings_are_greedy_unless_there_is_a_temperature(given, until, options):
    assert Settings.read(given) == Settings(until, options)


def test_ignored_settings_are_logged(caplog):
    Settings.read({"until": [], "repetition_penalty": 2, "image_aspect_ratio": "original"})
    assert "repetition_penalty" in caplog.text
    assert "image_aspect_ratio" not in caplog.text


def test_an_answer_ends_at_the_first_stop_text():
    assert cut(" no\n\nUSER: and?", ("\n\n", "USER:")) == "no"
    assert cut("a\n\nb", ()) == "a\n\nb"


IMAGE = ROWS[0]["image"]


def shape(ask):
    """Texts, and `<>` for an image."""
    return [part.get("text", "<>") for message in ask.messages for part in message["content"]]


@pytest.mark.parametrize(
    ("context", "n", "wanted"),
    [
        ("why?", 1, ["<>", "why?"]),
        ("why?", 0, ["why?"]),
        ("a <image> b <image>", 2, ["a", "<>", "b", "<>"]),
        ("<image>\nwhy?", 2, ["<>", "<>", "why?"]),
        ("a <image> b <image> c", 1, ["a", "<>", "b", "c"]),
        ("a <image> b", 0, ["a", "b"]),
    ],
)
def test_images_take_the_marked_places(context, n, wanted):
    ask = from_context(context, [IMAGE] * n, "x")
    assert shape(ask) == wanted
    assert len(ask.images) == n


def test_messages_keep_their_roles_and_order():
    parts = [{"type": "text", "text": "a"}, {"type": "image", "url": IMAGE}]
    ask = from_messages([{"role": "system", "content": "be brief"}, {"role": "user", "content": parts}], "x")
    assert [message["role"] for message in ask.messages] == ["system", "user"]
    assert shape(ask) == ["be brief", "a", "<>"]
    assert ask.images[0].mode == "RGB"


def test_videos_are_refused():
    clip = [{"role": "user", "content": [{"type": "video", "url": "a.mp4"}]}]
    with pytest.raises(InvalidValueError, match="sample x: visual tokens of a video cannot be pruned"):
        from_messages(clip, "x")
    with pytest.raises(InvalidValueError, match="sample x: expected an image, got str"):
        from_context("why?", ["a.mp4"], "x")
