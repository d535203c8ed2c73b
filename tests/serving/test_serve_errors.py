"""What `serve` refuses: the status, one clear message in OpenAI's shape, and a server that lives on."""

import base64
import io
import json
import random
import socket

import openai
import pytest
from PIL import Image

from zoo_exp.errors import ZooExpError


def post(running, content, **headers):
    """Status and error of a request."""
    body = content if isinstance(content, bytes) else json.dumps(content).encode()
    status, _, answer = running.raw("POST", "/v1/chat/completions", body, **headers)
    error = json.loads(answer)["error"]
    assert set(error) == {"message", "type", "param", "code"}
    assert "\n" not in error["message"]
    assert "Traceback" not in error["message"]
    return status, error


def encoded(image, kind="PNG"):
    buffer = io.BytesIO()
    image.save(buffer, format=kind)
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"


@pytest.fixture
def chat(about):
    return {"model": "embedded", "messages": about()}


@pytest.mark.parametrize(
    ("given", "param", "said"),
    [
        ({"temperature": 0.7}, "temperature", "greedily"),
        ({"temperature": True}, "temperature", "greedily"),
        ({"n": 2}, "n", "one choice"),
        ({"logprobs": True}, "logprobs", "does not implement"),
        ({"tools": [{"type": "function"}]}, "tools", "does not implement"),
        ({"response_format": {"type": "json_object"}}, "response_format", "does not implement"),
        ({"budgt": 16}, "budgt", "Did you mean 'budget'"),
        ({"budget": 1000}, "budget", "budget 1000 is above the 144 visual tokens"),
        ({"budget": 0}, "budget", "selector 'blind'"),
        ({"budget": -1}, "budget", "whole number of tokens above 0"),
        ({"budget": 1.5}, "budget", "keep ratio"),
        ({"budget": "many"}, "budget", "not a number"),
        ({"budget": "4/frame"}, "budget", "no frames"),
        ({"budget": True}, "budget", "number of visual tokens"),
        ({"budget": [16]}, "budget", "number of visual tokens"),
        ({"selector": "divprun"}, "selector", "Did you mean 'divprune'"),
        ({"selector": "evil.py:Evil"}, "selector", "unknown selector"),
        ({"selector": 3}, "selector", "give a name"),
        ({"selector": "\ud800"}, "selector", "unknown selector"),
        ({"budget": "\ud800\n"}, "budget", "not a number"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, "messages", "cannot read the prompt"),
        ({"selector": "full", "budget": 3}, "budget", "takes no budget"),
        ({"max_tokens": 0}, "max_tokens", "from 1 to 64"),
        ({"max_tokens": 65}, "max_tokens", "from 1 to 64"),
        ({"max_completion_tokens": "4"}, "max_completion_tokens", "from 1 to 64"),
        ({"max_tokens": 3, "max_completion_tokens": 4}, "max_tokens", "one of them"),
        ({"stop": [""]}, "stop", "1 to 200 characters"),
        ({"stop": ["a"] * 9}, "stop", "at most 8"),
        ({"seed": -1}, "seed", "from 0"),
        ({"stream": "yes"}, "stream", "true or false"),
        ({"stream_options": []}, "stream_options", "include_usage"),
        ({"model": 3}, "model", "give a name"),
        ({"messages": []}, "messages", "list of messages"),
        ({"messages": "hello"}, "messages", "list of messages"),
        ({"messages": ["hello"]}, "messages[0]", "role and content"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages[0].role", "allowed are"),
        ({"messages": [{"role": "user", "content": " "}]}, "messages", "is empty"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content", "list of parts"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages", "last message"),
        ({"messages": [{"role": "user", "content": [{"type": "input_audio"}]}]}, "messages[0].content[0]", "a part is"),
        ({"messages": [{"role": "user", "content": "a " * 3000}]}, "messages", "this model takes"),
    ],
)  # fmt: skip
def test_a_field_that_is_not_allowed_is_named(running, chat, given, param, said):
    status, error = post(running, {**chat, **given})
    assert (status, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert said in error["message"]


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("https://example.org/a.png", "nothing is fetched"),
        ("ftp://example.org/a.png", "nothing is fetched"),
        ("data:image/png;base64,", "is empty"),
        ("data:image/png;base64,$$$$", "not valid base64"),
        ("data:image/png,abc", "a data URL of an image"),
        ("data:image/png;base64,aGVsbG8=", "cannot be decoded"),
        ("no_image.png", "cannot be decoded"),
        ("missing.png", "no such image"),
        ("../x.png", "below the server's folder"),
        ("/etc/hostname", "below the server's folder"),
        ("file:///etc/hostname", "below the server's folder"),
        ("file://elsewhere/a.png", "no host"),
        ("link.png", "below the server's folder"),
        ("sub", "no such image"),
        ("a\u0000b", "below the server's folder"),
        ("", "is needed"),
    ],
)
def test_an_image_that_is_none(running, about, url, said):
    messages = about("x", "a")
    messages[0]["content"][1]["image_url"]["url"] = url
    status, error = post(running, {"messages": messages})
    assert (status, error["code"]) == (400, "invalid_image")
    assert said in error["message"]
    assert str(running.server.settings.root) not in error["message"]


def test_images_have_limits(running, about, data_url):
    status, error = post(running, {"messages": about("x", *[data_url] * 3)})
    assert (status, error["code"]) == (400, "too_many_images")
    status, error = post(running, {"messages": about("x", encoded(Image.new("1", (12_000, 6_000))))})
    assert (status, error["code"]) == (400, "invalid_image")
    assert "at most 64,000,000" in error["message"]
    assert post(running, {"messages": about("x", encoded(Image.new("RGB", (4, 4)), "PPM"))})[0] == 400


def test_files_below_the_folder_are_read(running, client, about):
    root = running.server.settings.root
    for url in ("sub/a scene.png", f"file://{root}/sub/a%20scene.png"):
        response = client.chat.completions.create(
            model="embedded", messages=about("What color is the ring?", url)
        )
        assert response.choices[0].message.content == "red"


@pytest.mark.parametrize(
    "body", [b"", b"{", b"[1]", b"null", b"[" * 100_000, b'{"seed": NaN}', b"\xff\xfe", b"1" * 5000]
)
def test_a_body_that_is_no_request(running, body):
    status, error = post(running, body)
    assert (status, error["type"]) == (400, "invalid_request_error")


def test_paths_methods_and_types(running):
    for method, path, status in [
        ("GET", "/v1/chat/completions", 405),
        ("POST", "/v1/models", 405),
        ("GET", "/", 404),
        ("GET", "/v1/models/other", 404),
        ("GET", "/v1/../../etc/passwd", 404),
    ]:
        found, headers, body = running.raw(method, path, b"{}" if method == "POST" else None)
        assert found == status
        assert json.loads(body)["error"]["code"] in ("not_found", "method_not_allowed", "model_not_found")
        assert headers["x-request-id"]
    assert post(running, b"{}", Content_Type="text/plain")[0] == 415
    assert post(running, b"{}", Host="evil.example")[0] == 421
    assert post(running, {"model": "gpt", "messages": [{"role": "user", "content": "x"}]})[0] == 404


def test_a_large_body_is_refused_with_and_without_its_length(running, monkeypatch):
    monkeypatch.setattr(running.server.service, "body_bytes", 1000)
    for more in ({}, {"Transfer_Encoding": "chunked"}):
        body = b" " * 300_000 if not more else b"493e0\r\n" + b" " * 300_000 + b"\r\n0\r\n\r\n"
        status, error = post(running, body, **more)
        assert (status, error["code"]) == (413, "body_too_large")


def test_errors_reach_the_openai_client_as_its_own(running, client, about):
    with pytest.raises(openai.BadRequestError, match="above the 144"):
        client.chat.completions.create(
            model="embedded", messages=about(), extra_body={"budget": 999}, stream=True
        )
    with pytest.raises(openai.NotFoundError, match="no model 'gpt-4o' here"):
        client.chat.completions.create(model="gpt-4o", messages=about())
    with pytest.raises(openai.NotFoundError):
        client.responses.create(model="embedded", input="x")


def test_a_bug_is_status_500_without_details(running, client, about, monkeypatch, caplog):
    caplog.set_level("ERROR", logger="zoo_exp")
    with monkeypatch.context() as patch:
        patch.setattr("zoo_exp.serving.answerer.why_not", lambda *given: {}["secret"])
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="embedded", messages=about())
        assert "secret" not in str(caught.value)
        assert caught.value.response.headers["x-should-retry"] == "false"
        assert running.raw("GET", "/health")[0] == 200
        for _ in range(2):
            assert post(running, {"messages": about()})[0] == 500
        status, _, body = running.raw("GET", "/health")
        assert (status, json.loads(body)["status"]) == (503, "failing")
        patch.setattr("zoo_exp.serving.http_app.parse", lambda *given: {}["secret"])
        with pytest.raises(openai.InternalServerError) as caught:
            client.chat.completions.create(model="embedded", messages=about())
        assert "secret" not in str(caught.value)
    assert [record.getMessage().endswith("KeyError: 'secret'") for record in caplog.records] == [True] * 4
    assert (
        client.chat.completions.create(model="embedded", messages=about()).choices[0].message.content == "red"
    )


def test_an_error_of_the_engine_has_its_message(running, about, monkeypatch):
    def fail(*given, **more):
        raise ZooExpError("the logits are NaN")

    monkeypatch.setattr(running.server.generator, "generate", fail)
    status, error = post(running, {"messages": about()})
    assert (status, error["code"], error["message"]) == (500, "generation_failed", "the logits are NaN")
    monkeypatch.undo()
    assert running.raw("POST", "/v1/chat/completions", json.dumps({"messages": about()}))[0] == 200
    assert running.raw("GET", "/health")[0] == 200


def test_nothing_that_is_thrown_at_it_ends_the_server(running, client, about, chat):
    """Random damage to a request: always an answer in the right shape, never status 500."""
    dice = random.Random(0)
    junk = [
        None,
        True,
        -1,
        0,
        1e308,
        "",
        "x",
        "\ud800",
        [],
        {},
        [[]],
        [{"type": "image_url"}],
        "data:;base64,AA",
    ]
    text = json.dumps(chat).encode()
    for number in range(120):
        if number % 2:
            place, length = dice.randrange(len(text)), dice.randrange(1, 40)
            body = text[:place] + bytes(dice.randrange(256) for _ in range(length)) + text[place + length :]
        else:
            content = json.loads(text)
            message = content["messages"][0]
            target, key = dice.choice(
                [(content, dice.choice([*content, "budget", "selector", "stop", "seed", "stream", "n", "max_tokens"])),
                 (message, dice.choice(["role", "content", "name"])),
                 (message["content"][1], dice.choice(["type", "image_url"])),
                 (message["content"][1]["image_url"], dice.choice(["url", "detail"]))]
            )  # fmt: skip
            target[key] = dice.choice(junk)
            body = json.dumps(content).encode()
        status, _, answer = running.raw("POST", "/v1/chat/completions", body)
        assert status in (200, 400, 404), (status, body[:300], answer)
        assert status == 200 or json.loads(answer)["error"]["message"]
    assert (
        client.chat.completions.create(model="embedded", messages=about()).choices[0].message.content == "red"
    )
    for text in (
        b"\x00\xff\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nContent-Length: 9\r\n\r\n{",
        b"",
    ):
        with socket.create_connection(("127.0.0.1", running.server.port), 30) as connection:
            connection.sendall(text)
    half = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", running.server.port), 30) as connection:
        connection.sendall(half + b"Content-Length: 1000\r\n\r\n{")
        running.wait(lambda: running.server.service.inside == 1)
    running.wait(lambda: running.server.service.inside == 0)
