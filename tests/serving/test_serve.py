"""`serve` as the real `openai` client sees it."""

import pytest

from zoo_exp.config.compose import compose
from zoo_exp.workbench.questioner import Questioner


def test_a_chat_with_an_image_is_answered_with_usage(running, client, about):
    response = client.chat.completions.create(model="embedded", messages=about(), temperature=0, max_tokens=4)
    (choice,) = response.choices
    assert choice.message.content == "red"
    assert choice.finish_reason == "stop"
    usage = response.usage
    assert (usage.kept_tokens, usage.visual_tokens) == (16, 144)
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens
    assert usage.completion_tokens == 2  # a word and the end
    assert set(usage.milliseconds) == {"queue", "prepare", "vision", "select", "prefill", "generate", "total"}
    assert (
        sum(usage.milliseconds[name] for name in ("vision", "select", "generate"))
        <= usage.milliseconds["total"]
    )
    running.wait(lambda: any(response.id.removeprefix("chatcmpl-") in line for line in running.lines))
    assert "zoo multiply @16 images=1 kept=16/144" in running.lines[-1]
    assert "red" not in running.lines[-1]


def test_the_response_is_that_of_ask(client, about, embedded, scene):
    arms = compose(["selector=[full,divprune,fastv,blind]", "budget=8"]).arms
    questioner = Questioner(embedded)
    panels = questioner.ask(questioner.look(scene, "What color is the ring?", arms), arms)
    for arm, panel in zip(arms, panels, strict=True):
        more = {"selector": arm.selector, **({"budget": 8} if arm.budget else {})}
        response = client.chat.completions.create(model="embedded", messages=about(), extra_body=more)
        assert response.choices[0].message.content == panel.response
        assert response.usage.kept_tokens == panel.kept
        if panel.layer_tokens is not None:
            assert response.usage.layer_tokens == pytest.approx(panel.layer_tokens, abs=0.1)


def test_a_stream_is_the_same_text_in_pieces(client, about):
    question = {"model": "embedded", "messages": about(), "extra_body": {"budget": "25%"}}
    whole = client.chat.completions.create(**question)
    chunks = list(
        client.chat.completions.create(**question, stream=True, stream_options={"include_usage": True})
    )
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert [chunk.choices[0].finish_reason for chunk in chunks[-2:-1]] == ["stop"]
    assert chunks[-1].choices == []
    assert chunks[-1].usage.kept_tokens == whole.usage.kept_tokens == 36
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert len({chunk.id for chunk in chunks}) == 1
    plain = list(client.chat.completions.create(**question, stream=True))
    assert plain[-1].choices[0].finish_reason == "stop"
