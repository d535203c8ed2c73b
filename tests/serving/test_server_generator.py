"""A vLLM server over HTTP, played by a small server in this process: replies, refusals and a whole run."""

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import torch

import zoo_exp
from zoo_exp.cli import main
from zoo_exp.embedded.shipped import shipped_folder
from zoo_exp.errors import ZooExpError
from zoo_exp.models.prompt import PrunedPrompt
from zoo_exp.runs import reading
from zoo_exp.serving.vllm_http import ServerGenerator

FOLDER = str(shipped_folder("embedded"))
YES = [5, 2]  # an answer: a word and the end


class PlayedServer:
    """Replies as vLLM's server does; a test may change what it says.

    Attributes:
        say: path -> (status, body); a body that is not bytes is sent as JSON.
        asked: bodies of the completions.
        keys: their Authorization headers.
    """

    def __init__(self):
        self.say = {
            "/version": (200, {"version": "0.32.0"}),
            "/v1/models": (200, {"data": [{"id": "served", "root": FOLDER, "max_model_len": 400}]}),
        }
        self.asked, self.keys = [], []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                self.reply(*outer.say.get(self.path, (404, {})))

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.asked.append(body)
                outer.keys.append(self.headers["Authorization"])
                if self.path in outer.say:
                    return self.reply(*outer.say[self.path])
                assert not body["stream"]
                return self.reply(200, {"choices": [{"token_ids": YES}]})

            def reply(self, status, body):
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(status)
                if status in (301, 307):
                    self.send_header("Location", "http://127.0.0.1:1/elsewhere")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_):
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):  # noqa: D102
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def server():
    made = PlayedServer()
    yield made
    made.close()


@pytest.fixture(scope="module")
def loaded():
    return zoo_exp.load_model("embedded", decoder=False)


def opened(loaded, server):
    return ServerGenerator(loaded, server.url, FOLDER)


def prompt_of(lengths, width):
    """Prompts of text that begin with the beginning-of-sequence token."""
    longest = max(lengths)
    mask = torch.tensor([[0] * (longest - n) + [1] * n for n in lengths])
    ids = torch.where(mask.cumsum(dim=1) == 1, 1, 5) * mask
    embeds = torch.randn(len(lengths), longest, width)
    return PrunedPrompt(embeds, mask, None, torch.zeros_like(mask).bool(), [0] * len(lengths), input_ids=ids)


def ask(generator, prompt, **more):
    names = [f"q/{n}" for n in range(len(prompt.kept_tokens))]
    return generator.generate(prompt, [[]] * len(names), names, max_new_tokens=4, do_sample=False, **more)


def test_embeddings_arrive_and_token_ids_come_back(loaded, server, monkeypatch):
    monkeypatch.setenv("VLLM_API_KEY", "secret")
    generator = opened(loaded, server)
    assert (generator.name, generator.model, generator.requests.checks.longest) == (
        "vllm 0.32.0",
        "served",
        400,
    )
    prompt = prompt_of([4, 3], 128)
    assert ask(generator, prompt).tolist() == [YES, YES]
    bodies = {len(tensor_of(body)): body for body in server.asked}
    assert torch.equal(tensor_of(bodies[3]), prompt.inputs_embeds[1, 1:])
    assert {name: bodies[4][name] for name in ("model", "temperature", "max_tokens", "return_token_ids")} == {
        "model": "served", "temperature": 0.0, "max_tokens": 4, "return_token_ids": True
    }  # fmt: skip
    assert set(server.keys) == {"Bearer secret"}


def tensor_of(body):
    return torch.load(io.BytesIO(base64.b64decode(body["prompt_embeds"])), weights_only=True)


def test_a_reader_of_tokens_gets_a_response_at_once(loaded, server):
    seen = []
    ids = ask(opened(loaded, server), prompt_of([4], 128), on_tokens=lambda row, new: seen.append((row, new)))
    assert ids.tolist() == [YES]
    assert seen == [(0, YES)]


@pytest.mark.parametrize(
    ("path", "reply", "message"),
    [
        ("/version", (200, {"version": "0.20.1"}), r"vLLM 0\.20\.1: engine=vllm works with"),
        ("/version", (200, []), "does not say its version"),
        ("/version", (200, b"<html>"), "not JSON"),
        ("/version", (401, {}), r"refused \(401"),
        ("/version", (307, {}), r"refused \(307"),
        ("/v1/models", (200, {"data": []}), "lists no model"),
        ("/v1/models", (200, {"data": [{"id": "other", "root": "llava-hf/other"}]}), "the server has llava-hf/other"),
    ],
)  # fmt: skip
def test_a_server_that_is_not_the_right_one_is_refused(loaded, server, path, reply, message):
    server.say[path] = reply
    with pytest.raises(ZooExpError, match=message):
        opened(loaded, server)
    assert server.asked == []


@pytest.mark.parametrize(
    ("reply", "message"),
    [
        (
            (400, {"error": {"message": "embeds are\nnot enabled"}}),
            r"refused \(400\): embeds are not enabled",
        ),
        ((500, b"dead"), r"refused \(500\): dead"),
        ((200, b"no json"), "not JSON"),
        ((200, {"choices": [{"text": "yes"}]}), "no token ids"),
        ((200, {"choices": [{"token_ids": ["5"]}]}), "no token ids"),
        ((200, {"choices": [{"token_ids": []}]}), "returned no token"),
        ((200, {"error": "overloaded"}), "overloaded"),
        ((307, {}), r"refused \(307"),
    ],
)
def test_a_refusal_or_a_strange_reply_is_one_line(loaded, server, reply, message):
    generator = opened(loaded, server)
    server.say["/v1/completions"] = reply
    with pytest.raises(ZooExpError, match=message) as raised:
        ask(generator, prompt_of([4], 128))
    assert "\n" not in str(raised.value)


def test_a_server_that_has_gone_is_one_line(loaded, server):
    generator = opened(loaded, server)
    server.close()
    with pytest.raises(ZooExpError, match="no server answers"):
        ask(generator, prompt_of([4], 128))
    with pytest.raises(ZooExpError, match="no server answers"):
        opened(loaded, server)


def test_a_prompt_with_nan_is_not_sent(loaded, server):
    generator, prompt = opened(loaded, server), prompt_of([4, 4], 128)
    prompt.inputs_embeds[1, 2, 0] = torch.nan
    with pytest.raises(ZooExpError, match="q/1: its embeddings are not finite"):
        ask(generator, prompt)
    assert server.asked == []


def test_a_run_over_http(server, tmp_path, capsys):
    texts = ["selector=[full,random,blind]", "selector.seeds=1", "budget=16", "task=world2_pope", "limit=2"]
    given = [*texts, "engine=vllm", f"engine.url={server.url}", "logger=none", f"out={tmp_path}"]
    assert main(["run", *given]) == 0
    assert len(server.asked) == 6
    assert sorted(len(tensor_of(body)) for body in server.asked)[0] < 16  # blind: no placeholder is left
    (run,) = tmp_path.glob("custom/*/experiment.json")
    engine = json.loads(run.read_text())["experiment"]["engine"]
    assert (engine["name"], engine["version"]) == ("vllm", "0.32.0")
    rows = list(reading.timings(run.parent))
    assert {row.prefill_decode_ms for row in rows} == {None}
    times = reading.read_timings(run.parent)
    assert (times["requests_per_s"] > 0).all()
    assert "| requests 1/s |" in (run.parent / "results.md").read_text()
    assert main(["run", *given]) == 0  # everything is recorded
    assert len(server.asked) == 6
    server.close()
    assert main(["run", *given]) == 2
    assert "no server answers" in capsys.readouterr().err
