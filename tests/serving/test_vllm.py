"""vLLM itself: its token ids are those of transformers. `make test-vllm` makes the environment and runs it.

An engine takes about 10 s to start, so every model has one for all of its tests.
"""

import base64
import contextlib
import io
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec

import pytest
import torch

import zoo_exp
from zoo_exp import selectors
from zoo_exp.core.budget import Budget
from zoo_exp.embedded.shipped import shipped_folder
from zoo_exp.errors import ZooExpError
from zoo_exp.models.answering import EncodedBatch, generate
from zoo_exp.models.chat import chat_inputs, user_turn
from zoo_exp.models.generators import HfGenerator
from zoo_exp.models.prompt import generate_pruned, prune_prompt
from zoo_exp.tasks import data, get

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(find_spec("vllm") is None, reason="vLLM is not installed here: make test-vllm"),
]
TASKS = {
    "embedded": ("world2_gqa", "world2_vqav2", "world2_pope"),
    "embedded_qwen": ("world2_gqa", "world2_vqav2", "world2_pope"),
    "embedded_next": ("world2_tiles_gqa",),
}
ARMS = (("full", None), ("zoo", 16), ("divprune", 16), ("random", 8), ("blind", None))
QUESTIONS = 30
OPTIONS = {"max_new_tokens": 24, "do_sample": False}


class Case:
    """A model with 30 questions and an engine."""

    def __init__(self, name, start=True, **options):
        from zoo_exp.serving.vllm_engine import EngineOptions, VllmGenerator

        self.name, self.loaded = name, zoo_exp.load_model(name)
        rows = [
            (get(task), doc)
            for task in TASKS[name]
            for doc in data.load(get(task), None, QUESTIONS // len(TASKS[name]))
        ]
        self.names = [f"{task.name}/{task.sample_id(doc)}" for task, doc in rows]
        self.contents = [task.content(doc, "embedded") for task, doc in rows]
        inputs = chat_inputs(self.loaded.processor, [user_turn(content) for content in self.contents])
        needs = frozenset().union(*(selectors.get(arm).captures for arm, _ in ARMS))
        with torch.inference_mode():
            self.batch = EncodedBatch(inputs, self.loaded.adapter.encode(inputs, needs))
        self.engine = None
        if start:
            given = EngineOptions(dtype="float32", max_model_len=1024, **options)
            self.engine = VllmGenerator(self.loaded, shipped_folder(name), given)

    @property
    def policies(self):
        """Position policies that the family has."""
        return ("contiguous", "original") if self.loaded.adapter.positions == "original" else ("contiguous",)

    def ask(self, arm, count, positions, engine=None):
        """New ids up to the end, and what was generated."""
        budget = None if count is None else Budget(count=count, at_most=True)
        with torch.inference_mode():
            made = generate(
                self.loaded, self.batch, selectors.get(arm), budget, self.names, positions=positions,
                generator=engine, **OPTIONS,
            )  # fmt: skip
        answers = made.read(self.loaded, ())
        ids = [row[: a.new_tokens] for row, a in zip(made.new_tokens.tolist(), answers, strict=True)]
        return ids, made

    def requests(self, made):
        """The requests of what was generated, and their sampling parameters."""
        images = [[len(one.indices) for one in row] for row in made.selected.selections]
        return self.engine.requests.made(made.prompt, images, self.names, OPTIONS)


@pytest.fixture(scope="module", params=TASKS)
def case(request):
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    made = Case(request.param)
    yield made
    made.engine.close()


def test_token_ids_are_those_of_transformers_and_arms_share_a_call(case):
    everything, expected, sampling = [], [], {}
    for positions in case.policies:
        for arm, count in ARMS:
            ours, made = case.ask(arm, count, positions)
            theirs, _ = case.ask(arm, count, positions, case.engine)
            assert theirs == ours, (arm, positions)
            requests, sampling = case.requests(made)
            everything += requests
            expected += ours
    # Different numbers of visual tokens in one call; the second time the prefix cache has the prompts.
    assert case.engine.answer(everything, sampling) == expected
    assert case.engine.answer(everything, sampling) == expected


def test_the_engine_answers_on_after_a_refusal(case):
    ours, made = case.ask("random", 8, "contiguous")
    spoilt = made.prompt.inputs_embeds.clone()
    spoilt[3, -1, 0] = torch.nan
    object.__setattr__(made.prompt, "inputs_embeds", spoilt)
    with pytest.raises(ZooExpError, match=f"{case.names[3]}: its embeddings are not finite"):
        case.requests(made)
    with pytest.raises(ZooExpError, match="prunes between decoder layers"):
        case.ask("fastv", 8, "contiguous", case.engine)
    assert case.ask("random", 8, "contiguous", case.engine)[0] == ours


def test_requests_of_others_are_answered_as_without_the_plug_in(case):
    if case.name != "embedded_qwen":
        pytest.skip("prompt embeddings do not touch the plug-in's classes")
    ours, made = case.ask("full", None, "original")
    requests, sampling = case.requests(made)
    for request, tokens in zip(
        requests, case.batch.tokens, strict=True
    ):  # embeddings and the true grid, as stock vLLM
        image = request["multi_modal_data"]["image"]
        image["image_embeds"] = image["image_embeds"][:, :-8]
        image["image_grid_thw"] = torch.tensor([[1, *(2 * side for side in tokens[0].grid)]])
    assert case.engine.answer(requests, sampling) == ours
    pruned, more = case.ask("random", 8, "original")
    mixed = [one for pair in zip(requests, case.requests(more)[0], strict=True) for one in pair]
    assert case.engine.answer(mixed, sampling) == [
        ids for pair in zip(ours, pruned, strict=True) for ids in pair
    ]


def test_threads_share_the_engine_and_one_that_leaves_disturbs_nobody(case):
    ours, made = case.ask("random", 8, case.policies[0])
    requests, sampling = case.requests(made)

    class LeftError(Exception):
        pass

    def leave(place, ids):
        raise LeftError

    def work(number):
        part = slice(number, None, 6)
        if number == 2:
            with pytest.raises(LeftError):
                case.engine.answer(requests[part], sampling, leave)
        return case.engine.answer(requests[part], sampling) == ours[part]

    with ThreadPoolExecutor(6) as pool:
        assert list(pool.map(work, range(6))) == [True] * 6


def parts_of(content):
    """The content of a message in OpenAI's form."""
    parts = []
    for part in content:
        if isinstance(part, str):
            parts.append({"type": "text", "text": part})
            continue
        image = io.BytesIO()
        part.save(image, format="PNG")
        url = f"data:image/png;base64,{base64.b64encode(image.getvalue()).decode()}"
        parts.append({"type": "image_url", "image_url": {"url": url}})
    return parts


def test_serve_hands_requests_over_as_they_come(case, monkeypatch):
    import openai

    from zoo_exp._cli import serve
    from zoo_exp.config.compose import compose
    from zoo_exp.evaluation import sources
    from zoo_exp.serving import opening
    from zoo_exp.serving.answerer import Answerer, Task
    from zoo_exp.serving.chat_request import Limits, parse
    from zoo_exp.serving.worker import Job

    transformers, bodies, expected = Answerer(case.loaded, HfGenerator(case.loaded.model), 24), {}, {}
    for arm, count in ARMS:
        more = {"selector": arm, **({} if count is None else {"budget": f"<={count}"})}
        (ours,) = compose(
            [f"model={case.name}", f"selector={arm}", f"budget=<={count or 1}", "selector.seeds=1"]
        ).arms
        for number in range(8):
            body = {"messages": [{"role": "user", "content": parts_of(case.contents[number])}], **more}
            events = []
            task = Task(parse(json.dumps(body).encode(), Limits()), ours, 0)
            transformers([Job(task, None, events.append)])
            bodies[arm, number], expected[arm, number] = body, events[0].text
    monkeypatch.setattr(sources, "load_configured", lambda model, device, decoder: case.loaded)
    monkeypatch.setattr(opening, "open_generator", lambda engine, model, loaded: case.engine)
    monkeypatch.setattr(case.engine, "close", lambda: None)
    given = [
        f"model={case.name}",
        "engine=vllm",
        "selector=zoo",
        "budget=<=16",
        "serve.port=0",
        "serve.batch=8",
    ]
    server = serve.start([*given, "serve.max_tokens=24"])
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    client = openai.OpenAI(base_url=server.address, api_key="none", max_retries=5, timeout=120)

    def ask(place):
        body = dict(bodies[place])
        messages, stream = body.pop("messages"), place[1] % 2 == 1
        answered = client.chat.completions.create(
            model=case.name, messages=messages, extra_body=body, stream=stream
        )
        if not stream:
            return answered.choices[0].message.content
        return "".join(chunk.choices[0].delta.content or "" for chunk in answered)

    with ThreadPoolExecutor(8) as pool:
        assert dict(zip(bodies, pool.map(ask, bodies), strict=True)) == expected
    with pytest.raises(openai.BadRequestError, match="prunes between decoder layers"):
        client.chat.completions.create(
            model=case.name, messages=[{"role": "user", "content": "x"}], extra_body={"selector": "fastv"}
        )
    server.stop()
    thread.join(60)
    assert not thread.is_alive()


def test_images_with_different_budgets_and_the_vision_encoder():
    """`image_embeds` on LLaVA: the plug-in's class; the encoder loads from the names that transformers 5.23 writes."""
    case = Case("embedded", via="image_embeds", images=2)
    try:
        everything, expected, sampling = [], [], {}
        for arm, count in ARMS:
            ours, made = case.ask(arm, count, "contiguous")
            requests, sampling = case.requests(made)
            everything += requests
            expected += ours
        order = torch.randperm(len(everything), generator=torch.Generator().manual_seed(0)).tolist()
        found = case.engine.answer([everything[n] for n in order], sampling)
        assert found == [expected[n] for n in order]
        # Two images of a prompt keep 16 and 5 tokens.
        image, text = case.contents[0]
        chats = [user_turn([image, case.contents[1][0], text])]
        inputs = chat_inputs(case.loaded.processor, chats)
        with torch.inference_mode():
            tokens = case.loaded.adapter.encode(inputs, frozenset())
            picks = [
                selectors.get("random").select(t, k, torch.Generator())
                for t, k in zip(tokens[0], (16, 5), strict=True)
            ]
            prompt = prune_prompt(case.loaded.adapter, inputs, tokens, [picks], "contiguous")
            ours = generate_pruned(case.loaded.model, prompt, **OPTIONS)
            assert case.engine.generate(prompt, [[16, 5]], ["two"], **OPTIONS).tolist() == ours.tolist()
        # Pixels: the whole model in vLLM.
        ours, made = case.ask("full", None, "contiguous")
        requests, sampling = case.requests(made)
        for request, content in zip(requests, case.contents, strict=True):
            request["multi_modal_data"] = {"image": [part for part in content if not isinstance(part, str)]}
        assert case.engine.answer(requests, sampling) == ours
    finally:
        case.engine.close()


@contextlib.contextmanager
def server_of(name, log):
    """VLLM's own server with a shipped model, on a free port; its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(shipped_folder(name))),
        *("--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager"),
        *("--max-model-len", "512", "--enable-prompt-embeds", "--limit-mm-per-prompt", '{"image": 0}'),
    ]
    env = os.environ | {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind"}
    env |= {"VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=env, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            yield f"http://127.0.0.1:{port}", process
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(connect, process, log):
    """What `connect` returns once the server answers."""
    for _ in range(600):
        with contextlib.suppress(ZooExpError):
            return connect()
        if process.poll() is not None:
            break
        time.sleep(1)
    raise AssertionError(log.read_text()[-3000:])


def test_token_ids_over_http(tmp_path):
    from zoo_exp.serving.vllm_http import ServerGenerator

    folder, log = str(shipped_folder("embedded")), tmp_path / "log"
    with server_of("embedded", log) as (url, process):
        case = Case("embedded", start=False)
        case.engine = wait_for(lambda: ServerGenerator(case.loaded, url, folder), process, log)
        for arm, count in ARMS:
            ours, _ = case.ask(arm, count, "contiguous")
            assert case.ask(arm, count, "contiguous", case.engine)[0] == ours, arm
        ours, made = case.ask("zoo", 16, "contiguous")
        seen = {}
        images = [[16]] * len(case.names)
        ids = case.engine.generate(
            made.prompt, images, case.names, **OPTIONS,
            on_tokens=lambda row, new: seen.setdefault(row, []).extend(new),
        )  # fmt: skip
        assert [seen[row] for row in range(len(ours))] == ours
        assert torch.equal(ids, made.new_tokens)
