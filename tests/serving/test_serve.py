"""`serve` as the real `openai` client sees it."""

import io
import json
import re
from pathlib import Path

import pytest

from zoo_exp import tasks
from zoo_exp.config.compose import compose
from zoo_exp.models.generators import HfGenerator
from zoo_exp.serving.answerer import Answerer, Task
from zoo_exp.serving.chat_request import ChatRequest
from zoo_exp.serving.worker import Job
from zoo_exp.workbench.questioner import Questioner

TASK = tasks.get("world2_vqav2")


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


def test_chats_without_images_with_several_and_with_turns(client, about, data_url):
    ask = client.chat.completions.create
    plain = ask(model="embedded", messages=[{"role": "user", "content": "What color is the ring?"}])
    assert (plain.usage.kept_tokens, plain.usage.visual_tokens) == (0, 0)
    assert plain.choices[0].message.content
    two = ask(model="embedded", messages=about("What color is the ring?", data_url, data_url))
    assert (two.usage.kept_tokens, two.usage.visual_tokens) == (32, 288)
    turns = [*about(), {"role": "assistant", "content": "red"}, {"role": "user", "content": "Is it a ring?"}]
    assert (
        ask(model="embedded", messages=[{"role": "system", "content": "x"}, *turns]).usage.kept_tokens == 16
    )
    written = ask(model="embedded", messages=[{"role": "user", "content": "Is there an <image> tag?"}])
    assert written.usage.visual_tokens == 0


def test_random_selections_follow_the_seed(client, about):
    def tokens(seed):
        more = {"selector": "random", "budget": 8}
        response = client.chat.completions.create(
            model="embedded", messages=about(), seed=seed, extra_body=more
        )
        return response.choices[0].message.content, response.usage.kept_tokens

    assert tokens(3) == tokens(3)
    assert len({tokens(seed) for seed in range(12)}) > 1


def test_a_batch_gives_the_responses_of_single_requests(embedded, rows):
    def messages(row):
        image = io.BytesIO()
        TASK.images(row)[0].save(image, format="PNG")
        parts = [{"type": "image"}, {"type": "text", "text": TASK.question(row)}]
        return ChatRequest([{"role": "user", "content": parts}], (image.getvalue(),), max_tokens=5)

    (arm,) = compose(["selector=zoo", "budget=16"]).arms
    answerer = Answerer(embedded, HfGenerator(embedded.model), 64)
    singles, together = [], [[] for _ in rows]
    jobs = [
        Job(Task(messages(row), arm, 0), None, events.append)
        for row, events in zip(rows, together, strict=True)
    ]
    for job in jobs:
        events = []
        answerer([Job(job.work, None, events.append)])
        singles.append(events)
    answerer(jobs)
    assert [[event.text for event in events] for events in together] == [
        [event.text for event in events] for events in singles
    ]
    assert len({events[0].text for events in together}) > 1
    assert {events[0].usage["kept_tokens"] for events in together} == {16}


def test_the_examples_of_the_documentation_run(running, scene, tmp_path, monkeypatch, capsys):
    page = (Path(__file__).resolve().parents[2] / "docs" / "serving.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    request, shown = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    scene.save("scene.png")
    exec(code.replace("http://127.0.0.1:8000/v1", running.server.address), {})
    assert capsys.readouterr().out == "red 16\n"
    (path,) = re.findall(r"curl .* -d @request.json http://127.0.0.1:8000(\S+)", page)
    status, _, answer = running.raw("POST", path, request)
    assert status == 200
    found, shown = json.loads(answer), json.loads(shown)
    for times in (shown["usage"].pop("milliseconds"), found["usage"].pop("milliseconds")):
        assert all(value >= 0 for value in times.values())
    assert {**shown, "id": "", "created": 0} == {**found, "id": "", "created": 0}
