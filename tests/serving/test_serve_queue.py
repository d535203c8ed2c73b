"""Keys, waiting, leaving, time limits and the end of `serve`, with an engine that is as slow as a test wants."""

import json
import threading
import time
from http.client import HTTPConnection

import openai
import pytest
import torch

from zoo_exp.models import generators
from zoo_exp.serving import opening

RED = 32
"""A word of the embedded model."""
KEY = "a-key-of-the-tests"


class Slow(generators.HfGenerator):
    """Generates the same word until `free` is set, then the end mark."""

    def __init__(self, model):
        super().__init__(model)
        self.free, self.calls, self.given, self.ended = threading.Event(), 0, 0, []

    def generate(self, prompt, images, names, *, on_tokens=None, **options):  # noqa: D102
        if options["max_new_tokens"] == 1:  # the first pass of the server
            return super().generate(prompt, images, names, on_tokens=on_tokens, **options)
        self.calls += 1
        rows = len(prompt.kept_tokens)
        step = 0
        try:
            while step < options["max_new_tokens"]:
                step += 1
                token = 2 if self.free.is_set() else RED
                self.given += 1
                for row in range(rows):
                    on_tokens(row, [token])
                if token == 2:
                    break
                time.sleep(0.003)
        finally:
            self.ended.append(step)
        return torch.full((rows, step), RED)


@pytest.fixture(scope="module")
def make_slow(serve):
    made = []

    def start(*texts, **more):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(opening, "HfGenerator", Slow)
            running = serve("selector=zoo", "budget=16", *texts, **more)
        made.append(running)
        return running

    yield start
    for running in made:
        running.server.generator.free.set()


@pytest.fixture(scope="module")
def one(make_slow):
    """One waits, none is answered with another."""
    return make_slow("serve.queue=1", "serve.max_tokens=1900")


@pytest.fixture
def slow(one):
    one.server.generator.free.clear()
    yield one
    one.server.generator.free.set()
    one.wait(lambda: not one.server.worker.running and not one.server.service.inside)


def ask(running, about, **more):
    return running.client().chat.completions.create(model="embedded", messages=about(), **more)


def generating(running):
    """Wait until a response is being generated."""
    generator = running.server.generator
    running.wait(lambda: generator.calls > len(generator.ended))


def in_thread(work):
    """Start a function in a thread; a list that gets its result or its error."""
    results = []

    def run():
        try:
            results.append(work())
        except Exception as error:
            results.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread, results


def test_one_more_request_than_there_is_room_for_gets_429(slow, about):
    first, answers = in_thread(lambda: ask(slow, about))
    generating(slow)
    second, more = in_thread(lambda: ask(slow, about))
    slow.wait(lambda: slow.server.worker.waiting == 1)
    with pytest.raises(openai.RateLimitError, match="1 requests are waiting") as caught:
        ask(slow, about)
    assert caught.value.response.headers["Retry-After"] == "1"
    assert json.loads(slow.raw("GET", "/health")[2]) == {"status": "ok", "waiting": 1, "running": 1}
    slow.server.generator.free.set()
    for thread in (first, second):
        thread.join(30)
    assert answers[0].choices[0].finish_reason == more[0].choices[0].finish_reason == "stop"
    assert more[0].usage.milliseconds["queue"] > 0
    assert ask(slow, about).choices[0].finish_reason == "stop"


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_ends_its_generation(slow, about, stream):
    generator = slow.server.generator
    before = len(generator.ended)
    connection = HTTPConnection("127.0.0.1", slow.server.port, timeout=30)
    body = json.dumps({"messages": about(), "stream": stream})
    connection.request("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"})
    if stream:
        assert b"assistant" in connection.getresponse().read1(100_000)
    generating(slow)
    connection.sock.close() if connection.sock else None
    connection.close()
    slow.wait(lambda: len(generator.ended) > before)
    assert generator.ended[-1] < 1800
    slow.wait(lambda: not slow.server.worker.running)
    slow.wait(lambda: any(("left by the client" if stream else " 499 ") in line for line in slow.lines))
    generator.free.set()
    assert ask(slow, about).choices[0].finish_reason == "stop"


def test_a_client_that_leaves_the_queue_is_never_answered(slow, about):
    first, _ = in_thread(lambda: ask(slow, about))
    generating(slow)
    calls = slow.server.generator.calls
    with pytest.raises(openai.APITimeoutError):
        slow.client(timeout=0.3).chat.completions.create(model="embedded", messages=about())
    slow.wait(lambda: slow.server.worker.waiting == 0)
    slow.server.generator.free.set()
    first.join(30)
    slow.wait(lambda: not slow.server.worker.running)
    assert slow.server.generator.calls == calls


def test_the_time_limit_ends_a_response(slow, about, monkeypatch):
    monkeypatch.setattr(slow.server.service, "seconds", 0.3)
    with pytest.raises(openai.InternalServerError, match=r"time limit of 0\.3 s") as caught:
        ask(slow, about)
    assert caught.value.status_code == 504
    assert caught.value.response.headers["x-should-retry"] == "false"
    with pytest.raises(openai.APIError, match="time limit"):
        list(ask(slow, about, stream=True))
    slow.wait(lambda: not slow.server.worker.running)


def test_stop_texts_and_lengths(slow, about):
    assert ask(slow, about, max_tokens=3).choices[0].message.content == "red red red"
    assert ask(slow, about, max_completion_tokens=3).choices[0].finish_reason == "length"
    response = ask(slow, about, stop=["d red r", "never"], max_tokens=40)
    assert (response.choices[0].message.content, response.choices[0].finish_reason) == ("re", "stop")
    assert response.usage.completion_tokens == 3
    pieces = [
        chunk.choices[0].delta.content or "" for chunk in ask(slow, about, stop=" red red", stream=True)
    ]
    assert "".join(pieces) == "red"


def test_requests_of_one_group_are_answered_together(make_slow, about):
    running = make_slow("serve.batch=3")
    generator = running.server.generator
    threads = [in_thread(lambda: ask(running, about))]
    generating(running)
    threads += [in_thread(lambda count=count: ask(running, about, max_tokens=count)) for count in (2, 5)]
    threads += [in_thread(lambda: ask(running, about, extra_body={"budget": 999}))]
    running.wait(lambda: running.server.worker.waiting == 2)
    calls = generator.calls
    generator.free.set()
    threads[0][0].join(30)
    for thread, _ in threads:
        thread.join(30)
    assert generator.calls == calls + 1
    assert [results[0].choices[0].finish_reason for _, results in threads[:3]] == ["stop"] * 3
    assert isinstance(threads[3][1][0], openai.BadRequestError)


def test_an_engine_of_its_own_gets_requests_as_they_come(make_slow, about, monkeypatch):
    monkeypatch.setattr(Slow, "stages", False)
    running = make_slow("serve.queue=0")
    generator = running.server.generator
    threads = [in_thread(lambda: ask(running, about, stream=False)) for _ in range(3)]
    running.wait(lambda: generator.calls == running.server.worker.running == 3)
    generator.free.set()
    for thread, results in threads:
        thread.join(30)
        assert results[0].choices[0].finish_reason == "stop"
        assert results[0].usage.kept_tokens == 16


def test_a_key_is_needed_and_never_shown(make_slow, about, capsys):
    running = make_slow(environment={"ZOO_EXP_API_KEY": KEY})
    running.server.generator.free.set()
    with pytest.raises(openai.AuthenticationError, match="wrong API key"):
        ask(running, about)
    for given in (
        {},
        {"Authorization": KEY},
        {"Authorization": f"Bearer {KEY}x"},
        {"Authorization": "Bearer \xe9"},
    ):
        status, headers, body = running.raw("GET", "/v1/models", **given)
        assert (status, headers["WWW-Authenticate"]) == (401, "Bearer")
        assert json.loads(body)["error"]["code"] == "invalid_api_key"
    client = running.client(api_key=KEY)
    (model,) = client.models.list().data
    assert (model.id, model.object, model.arm) == ("embedded", "model", "zoo multiply @16")
    assert client.models.retrieve("embedded").id == "embedded"
    assert client.chat.completions.create(model="embedded", messages=about()).usage.kept_tokens == 16
    assert running.raw("GET", "/health")[0] == 200
    assert running.raw("GET", "/health", Host="public.example")[0] == 200
    assert KEY not in "".join(running.lines) + "".join(capsys.readouterr())
    assert KEY not in repr(running.server.settings)


def test_at_its_end_the_running_response_is_finished_and_waiting_ones_are_told(make_slow, about):
    running = make_slow()
    first, answers = in_thread(lambda: ask(running, about))
    generating(running)
    second, refused = in_thread(lambda: ask(running, about))
    running.wait(lambda: running.server.worker.waiting == 1)
    running.server.stop()
    second.join(30)
    assert isinstance(refused[0], openai.InternalServerError)
    assert "stopping" in str(refused[0])
    running.server.generator.free.set()
    first.join(30)
    assert answers[0].choices[0].finish_reason == "stop"
    running.thread.join(30)
    assert not running.thread.is_alive()
    with pytest.raises(openai.APIConnectionError):
        ask(running, about)
