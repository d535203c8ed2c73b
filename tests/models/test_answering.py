"""Responses of a batch: input and layer selectors, shared scores, probes and counts."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

import zoo_exp
from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.core.seeding import generator_for
from zoo_exp.errors import InvalidValueError
from zoo_exp.models.answering import EncodedBatch, Probe, Ratings, generate, keep_all, select
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.prompt import generate_pruned, prune_prompt
from zoo_exp.models.pruning import generate_layer_pruned
from zoo_exp.models.responses import count_new, cut
from zoo_exp.selectors.controls import CONTROLS
from zoo_exp.selectors.zoo import Zoo
from zoo_exp.tasks import data, get

OPTIONS = {"max_new_tokens": 6, "do_sample": False}
NAMES = ["a/0", "b/0", "c/0"]


@pytest.fixture(scope="module")
def loaded():
    return zoo_exp.load_model("embedded")


@pytest.fixture(scope="module")
def batch(loaded):
    task = get("embedded_gqa")
    chats = [user_turn(task.content(row, "embedded")) for row in data.load(task, None, 3)]
    inputs = chat_inputs(loaded.processor, chats)
    with torch.inference_mode():
        return EncodedBatch(inputs, loaded.adapter.encode(inputs, frozenset({"features", "projector"})))


def run(loaded, batch, name, names=NAMES, **more):
    selector = selectors.get(name)
    budget = None if name == "full" else Budget(count=28)
    with torch.inference_mode():
        return generate(loaded, batch, selector, budget, names, **OPTIONS, **more)


@pytest.mark.parametrize("name", ["full", "random", "zoo", "divprune"])
def test_an_input_selector_runs_before_the_language_model(loaded, batch, name):
    generated = run(loaded, batch, name, seed=3)
    selector, budget = selectors.get(name), None if name == "full" else Budget(count=28)
    with torch.inference_mode():
        chosen = [
            [selector.select(images[0], budget, generator_for(3, row, 0))]
            for row, images in zip(NAMES, batch.tokens, strict=True)
        ]
        prompt = prune_prompt(loaded.adapter, batch.inputs, batch.tokens, chosen)
        expected = generate_pruned(loaded.model, prompt, **OPTIONS)
    assert torch.equal(generated.new_tokens, expected)
    answers = generated.read(loaded, ("\n\n",))
    kept = 144 if name == "full" else 28
    assert [answer.kept_tokens for answer in answers] == [kept] * 3
    assert [answer.layer_tokens for answer in answers] == [None] * 3
    assert [len(answer.selections[0].indices) for answer in answers] == [kept] * 3
    assert [answer.prompt_tokens for answer in answers] == prompt.attention_mask.sum(1).tolist()


def test_a_layer_selector_receives_every_token_and_prunes_inside(loaded, batch):
    generated = run(loaded, batch, "fastv")
    with torch.inference_mode():
        prompt = prune_prompt(loaded.adapter, batch.inputs, batch.tokens, keep_all(batch.tokens).selections)
        expected = generate_layer_pruned(
            loaded.adapter, prompt, selectors.get("fastv"), Budget(count=28), **OPTIONS
        )
    assert torch.equal(generated.new_tokens, expected.new_tokens)
    answers = generated.read(loaded, ())
    assert [answer.layer_tokens for answer in answers] == expected.counts
    assert {answer.kept_tokens for answer in answers} == {144}
    assert min(answers[0].layer_tokens) < 144
    assert generated.selected.milliseconds == 0.0


def test_rows_of_a_batch_get_the_answers_of_the_whole_batch(loaded, batch):
    whole = run(loaded, batch, "random").read(loaded, ())
    part = batch.rows([2, 0])
    assert set(part.inputs) == {"input_ids", "attention_mask"}
    some = run(loaded, part, "random", ["c/0", "a/0"]).read(loaded, ())
    assert [(answer.text, answer.new_tokens) for answer in some] == [
        (whole[place].text, whole[place].new_tokens) for place in (2, 0)
    ]
    assert batch.rows([0, 1, 2]) is batch


def test_rows_of_a_batch_keep_every_input_that_has_an_entry_per_token_image_or_row():
    """Families of transformers have inputs besides ids and masks; two prompts of three have images, one has two."""
    ids = torch.arange(12).view(3, 4)
    tokens = [["a", "b"], [], ["c"]]
    inputs = {
        "input_ids": ids,
        "attention_mask": ids + 100,
        "mm_token_type_ids": ids + 200,
        "pixel_values": torch.zeros(50, 7),
        "image_grid_thw": torch.arange(9).view(3, 3),
        "video_grid": None,
    }
    part = EncodedBatch(inputs, tokens).rows([2, 0])
    assert part.tokens == [["c"], ["a", "b"]]
    for name in ("input_ids", "attention_mask", "mm_token_type_ids"):
        assert torch.equal(part.inputs[name], inputs[name][[2, 0]]), name
    assert torch.equal(part.inputs["image_grid_thw"], inputs["image_grid_thw"][[2, 0, 1]])
    assert set(part.inputs) == set(inputs) - {"pixel_values", "video_grid"}

    two = {"input_ids": ids, "names": ["x", "y", "z"]}
    assert EncodedBatch(two, [["a"], [], []]).rows([1]).inputs["names"] == ["y"]
    for value in (torch.zeros(5, 2), torch.tensor(3), "text"):
        with pytest.raises(InvalidValueError, match=r"output strange .* model\.batch_size=1"):
            EncodedBatch({"input_ids": ids, "strange": value}, tokens).rows([1])


def test_arms_that_differ_in_fusion_or_budget_share_their_scores(batch, monkeypatch):
    zoo = type(selectors.get("zoo"))
    calls = []
    score = zoo.score
    monkeypatch.setattr(zoo, "score", lambda self, *a: calls.append(self) or score(self, *a))
    ratings = Ratings()
    arms = [
        (selectors.get("zoo", fusion=fusion), Budget(count=k)) for fusion in ("sum", "none") for k in (8, 20)
    ]
    with torch.inference_mode():
        shared = [select(s, batch.tokens, b, NAMES, ratings=ratings) for s, b in arms]
        assert len(calls) == len(NAMES)
        alone = [select(s, batch.tokens, b, NAMES) for s, b in arms]
        other_seeds = select(*[arms[0][0], batch.tokens, arms[0][1], ["d/0", "e/0", "f/0"]], ratings=ratings)
    assert len(calls) == len(NAMES) * (1 + len(arms) + 1)
    for one, other in zip(shared, alone, strict=True):
        for mine, theirs in zip(one.selections, other.selections, strict=True):
            assert torch.equal(mine[0].indices, theirs[0].indices)
    assert shared[0].milliseconds >= next(iter(ratings.known.values())).milliseconds
    assert not torch.equal(other_seeds.scores[0][0], shared[0].scores[0][0])


class Recorder(Probe):
    """Notes the stages, and the layer selector that it replaces."""

    def __init__(self):
        self.seen = []

    @contextmanager
    def stage(self, name):  # noqa: D102
        self.seen.append(name)
        yield

    def layer_selector(self, selector):  # noqa: D102
        self.seen.append(selector.name)
        return selectors.get("fastv", k=1)

    @contextmanager
    def generation(self):  # noqa: D102
        self.seen.append("generation")
        yield {"min_new_tokens": 6}


@pytest.mark.parametrize("first", ["none", "shuffled", "inverted"])
@pytest.mark.parametrize("estimator", ["zeroth_order", "closed_form"])
def test_controls_share_the_sensitivity_and_keep_what_they_keep_alone(batch, monkeypatch, first, estimator):
    """Whichever arm comes first: the scores and the draws after them are those of an arm alone."""
    calls = []
    original = Zoo._sensitivity
    monkeypatch.setattr(Zoo, "_sensitivity", lambda *a: calls.append(1) or original(*a))
    ratings = Ratings()
    for control in sorted(CONTROLS, key=lambda control: control != first):
        selector = Zoo(estimator=estimator, control=control, n_directions=4)
        found = select(selector, batch.tokens, Budget.parse(5), NAMES, seed=3, ratings=ratings)
        shared = len(calls)
        alone = select(selector, batch.tokens, Budget.parse(5), NAMES, seed=3)
        del calls[shared:]
        for rows, others in zip(found.selections, alone.selections, strict=True):
            for one, other in zip(rows, others, strict=True):
                assert torch.equal(one.indices, other.indices)
                assert torch.equal(one.scores, other.scores)
    assert len(calls) == sum(map(len, batch.tokens))  # once per image


def test_a_subclass_with_scores_of_its_own_shares_nothing():
    class Mine(Zoo):
        def score(self, tokens, generator):
            return tokens.projected.norm(dim=-1)

    assert Mine(control="inverted").rescores is None
    assert Zoo(control="inverted").rescores == Zoo()
    assert Zoo().rescores is None


def test_a_probe_sees_every_stage_and_may_add_to_generation(loaded, batch):
    probe = Recorder()
    generated = run(loaded, batch, "zoo", probe=probe)
    assert probe.seen == ["score", "select", "prompt", "generation"]
    assert generated.new_tokens.shape[1] == 6


def test_processors_of_the_caller_run_once_per_token(loaded, batch):
    lengths = []

    def count(ids, logits):
        lengths.append(ids.shape[1])
        return logits

    generated = run(loaded, batch, "full", logits_processor=[count])
    assert len(lengths) == len(set(lengths)) == generated.new_tokens.shape[1]


def test_a_probe_may_replace_the_layer_selector(loaded, batch):
    probe = Recorder()
    generated = run(loaded, batch, "fastv", probe=probe)
    assert probe.seen == ["fastv", "prompt", "generation"]
    assert generated.layers.counts[0][1] < 144  # pruned behind the first layer instead of the second


@pytest.mark.parametrize("ends", [2, [2, 5]])
def test_new_tokens_count_up_to_and_including_the_end(ends):
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=ends))
    new = torch.tensor([[7, 2, 0, 0], [7, 7, 7, 2], [7, 7, 7, 7], [2, 2, 2, 2]])
    assert count_new(model, new) == [2, 4, 4, 1]
    five = torch.tensor([[7, 5, 7, 2]])
    assert count_new(model, five) == [4 if ends == 2 else 2]


def test_a_response_ends_at_the_first_stop_text():
    assert cut(" a\n\nb ### c", ("###", "\n\n")) == "a"
    assert cut(" a b ", ()) == "a b"


def test_a_callers_logits_processor_runs_once_per_step(loaded, batch):
    calls = []

    def count(input_ids, scores):
        calls.append(len(scores))
        return scores

    generated = run(loaded, batch, "full", logits_processor=[count])
    assert calls == [3] * generated.new_tokens.shape[1]


@pytest.mark.parametrize("name", ["zoo", "fastv"])
def test_tokens_are_passed_on_as_they_are_generated(loaded, batch, name):
    seen = {row: [] for row in range(3)}

    def longer(ids, scores):
        scores[1, 2] = -torch.inf  # the second row never ends
        return scores

    generated = run(
        loaded, batch, name, on_tokens=lambda row, ids: seen[row].extend(ids), logits_processor=[longer]
    )
    counts = count_new(loaded.model, generated.new_tokens)
    assert len(set(counts)) > 1  # a row that has ended is padded, and padding is not passed on
    assert [seen[row] for row in range(3)] == [
        ids[:count] for ids, count in zip(generated.new_tokens.tolist(), counts, strict=True)
    ]


def test_a_reader_of_tokens_may_end_the_generation(loaded, batch):
    class LeftError(Exception):
        pass

    def leave(row, ids):
        raise LeftError

    with pytest.raises(LeftError):
        run(loaded, batch, "full", on_tokens=leave)


class Echo:
    """A generator that notes what it is given and answers every prompt with its number of visual tokens."""

    name, stages = "echo", False

    def __init__(self):
        self.checked, self.asked = [], []

    def check(self, selector, positions):  # noqa: D102
        self.checked.append((selector.name, positions))
        if selector.name == "fastv":
            raise InvalidValueError("fastv prunes inside the language model")

    def generate(self, prompt, images, names, *, on_tokens=None, **options):  # noqa: D102
        self.asked.append((images, list(names), options))
        return torch.tensor([[kept, 2] for kept in prompt.kept_tokens])

    def close(self):  # noqa: D102
        pass


def test_another_generator_gets_the_pruned_prompts(loaded, batch):
    echo = Echo()
    generated = run(loaded, batch, "random", generator=echo)
    assert echo.checked == [("random", "contiguous")]
    assert echo.asked == [([[28]] * 3, NAMES, OPTIONS)]
    assert generated.new_tokens.tolist() == [[28, 2]] * 3
    with pytest.raises(InvalidValueError, match="inside"):
        run(loaded, batch, "fastv", generator=echo)
    assert len(echo.asked) == 1
