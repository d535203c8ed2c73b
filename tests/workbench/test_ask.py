"""`ask`: one image, one question, several arms; what it prints and draws, and its bad input."""

import pytest
from PIL import Image

from zoo_exp._cli import ask
from zoo_exp.cli import main
from zoo_exp.config.arms import expand
from zoo_exp.config.schema import ArmConfig
from zoo_exp.errors import InvalidValueError
from zoo_exp.evaluation import sources
from zoo_exp.models.loading import LoadedModel
from zoo_exp.workbench.questioner import Questioner


def arms(*names, budget=16):
    return expand([ArmConfig(selector=name) for name in names], [budget], 144)


@pytest.fixture
def no_loading(monkeypatch, embedded):
    """`ask` gets the model of the session."""
    monkeypatch.setattr(sources, "load_configured", lambda model, device: embedded)


def test_one_command_prints_a_row_per_arm_and_draws_a_panel_per_arm(
    scene_file, no_loading, capsys, monkeypatch
):
    monkeypatch.setenv("COLUMNS", "80")
    command = [
        "ask",
        "scene.png",
        "Is there a red circle?",
        "selector=[full,zoo,fastv]",
        "budget=16",
        "new_tokens=3",
    ]
    assert main(command) == 0
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines()[:9])) <= 80
    lines = {line.split("  ")[0]: line.split() for line in out.splitlines()}
    assert lines["full"][1] == "144"
    assert lines["zoo multiply @16"][3] == "16"
    assert lines["full"][-1] in ("yes", "no")
    assert "words that" not in out
    (figure,) = scene_file.parent.glob("runs/ask/scene_*.png")
    assert str(figure.relative_to(scene_file.parent)) in out
    with Image.open(figure) as drawn:
        assert drawn.width == 2 * 26 + 3 * 256 - 16


def test_the_response_is_that_of_the_evaluation(embedded, questions):
    """The same question through `ask` and through a run's own path gives the same tokens and the same text."""
    from zoo_exp import tasks
    from zoo_exp.evaluation.sample_batches import Collate, Sample
    from zoo_exp.models.answering import EncodedBatch, generate

    task, questioner = tasks.get("world2_vqav2"), Questioner(embedded)
    (arm,) = arms("divprune")
    for number, doc in enumerate(questions):
        batch = Collate(task, embedded.processor, "embedded")([Sample(number, "0", doc)])
        encoded = EncodedBatch(batch.inputs, embedded.adapter.encode(batch.inputs, arm.build().needs))
        run = generate(embedded, encoded, arm.build(), arm.budget, ["0"], max_new_tokens=4, do_sample=False)
        looked = questioner.look(task.images(doc)[0], doc["question"], [arm])
        (panel,) = questioner.ask(looked, [arm], new_tokens=4)
        assert panel.response == run.read(embedded, ())[0].text
        assert list(panel.cells) == run.selected.selections[0][0].indices.tolist()


def test_a_preview_selects_the_same_tokens_without_a_response(embedded, scene):
    questioner, three = Questioner(embedded), arms("zoo", "random", "fastv")
    looked = questioner.look(scene, "Is there a red circle?", three)
    preview = questioner.ask(looked, three, respond=False)
    assert [panel.arm for panel in preview] == ["zoo @16", "random @16"]
    whole = questioner.ask(looked, three, new_tokens=2)
    assert [panel.cells for panel in preview] == [panel.cells for panel in whole[:2]]
    assert {panel.response for panel in preview} == {None}
    assert [panel.select_ms is None for panel in whole] == [False, False, True]


def test_words_that_the_tokenizer_does_not_know_are_named(scene_file, no_loading, capsys):
    assert main(["ask", "scene.png", "What flurb is the quoxel?", "selector=full", "new_tokens=2"]) == 0
    assert "words that embedded does not know: flurb, quoxel" in capsys.readouterr().out


def test_an_arm_that_does_not_apply_says_why_and_the_others_answer(embedded, scene):
    both = [
        *expand([ArmConfig(selector="cdpruner", options={"relevance": "clip"})], [16], 144),
        *arms("full"),
    ]
    questioner = Questioner(embedded)
    refused, full = questioner.ask(questioner.look(scene, "Is there a red circle?", both), both, new_tokens=2)
    assert "clip" in refused.problem
    assert full.response


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.png", "What?"], "no image none.png"),
        ([".", "What?"], "is a folder"),
        (["text.png", "What?"], "text.png: the image cannot be decoded"),
        (["large.png", "What?"], "at most 64,000,000 are read"),
        (["scene.png"], "takes an image and a question, got 1"),
        (["scene.png", "What?", "budgt=3"], "Did you mean 'budget'"),
        (["scene.png", "What?", "selector=divprun"], "Did you mean 'divprune'"),
        (["scene.png", "What?", "budget=500"], "500"),
        (["scene.png", "What?", "new_tokens=0"], "whole number from 1"),
        (["scene.png", " "], "the question is empty"),
        (["what?", "scene.png"], "the image comes first"),
        (["scene.png", "What?", "--png", "."], "is a folder"),
    ],
)
def test_bad_input_is_one_line(words, said, scene_file, no_loading, capsys):
    (scene_file.parent / "text.png").write_text("no image")
    if words[0] == "large.png":
        Image.new("1", (12_000, 6_000)).save(scene_file.parent / "large.png")
    assert main(["ask", *words]) == 2
    err = capsys.readouterr().err.strip()
    assert said in err
    assert len(err.splitlines()) == 1
    assert not (scene_file.parent / "runs").exists()


def test_a_question_may_hold_an_equals_sign():
    assert ask.split(["a=b.png", "Is x=3?", "model.dtype=float32"]) == (
        ["a=b.png", "Is x=3?"],
        ["model.dtype=float32"],
    )


def test_a_model_without_a_processor_is_refused(embedded):
    bare = LoadedModel(embedded.model, None, embedded.adapter, "bare", 144)
    with pytest.raises(InvalidValueError, match="no processor"):
        Questioner(bare)
