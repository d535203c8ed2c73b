"""The engine in the configuration: identity, and what vLLM cannot run, refused in one line before anything starts."""

import pytest

from zoo_exp.cli import main
from zoo_exp.config import EngineConfig, compose, engines
from zoo_exp.config.identity import cell_id
from zoo_exp.errors import InvalidValueError, ZooExpError

BEFORE = "81f545938d18"  # world 1, whose weights do not change any more
VLLM = ["engine=vllm", "engine.version=0.32.0", "logger=none"]
ZOO = ["selector=zoo", "budget=16", "task=world2_gqa"]


def test_transformers_keeps_the_cells_that_it_has():
    """The literal is from before there were engines: records of finished experiments keep their cells."""
    old = ["selector=zoo", "budget=16", "task=embedded_gqa", "model=embedded_world1"]
    experiment = compose([*old, "engine=hf"])
    (cell,) = experiment.cells()
    assert cell.id == cell_id(experiment.model, "embedded_gqa", 0) == BEFORE
    assert compose(old).id == experiment.id


def test_engine_and_version_identify_a_cell_and_nothing_else_of_it_does():
    (plain,), (served,) = compose(ZOO).cells(), compose([*ZOO, *VLLM]).cells()
    assert plain.id != served.id
    for more in (["engine.gpu_memory=0.5"], ["engine.via=image_embeds"], ["engine.url=8000"]):
        assert compose([*ZOO, *VLLM, *more]).cells()[0].id == served.id
    other = compose([*ZOO, *VLLM, "engine.version=0.33.1"])
    assert other.cells()[0].id not in (plain.id, served.id)
    assert other.as_dict()["engine"]["version"] == "0.33.1"


REFUSED = {
    ("selector=fastv", "budget=16/mean"): "selector fastv prunes between decoder layers",
    ("selector.positions=original",): "so positions=original is not possible",
    ("model=embedded_qwen", "engine.url=8000"): "prompt_embeds does not carry positions=original",
    ("model=embedded_qwen", "engine.via=prompt_embeds", "selector=full"): "positions of a whole image",
    ("model=embedded_next", "engine.via=image_embeds"): "llava_next has prompt_embeds",
    ("model=gemma3_4b",): "does not take the model family gemma3",
    ("model=idefics3_8b",): "does not take the model family idefics3",
    ("model.weights=random",): "reads weights from files",
    ("model.layers=2",): "runs every layer",
    ("trainer=ddp", "trainer.devices=2"): r"engine\.tensor_parallel=2",
    ("engine.version=0.31.2",): r"vLLM 0\.31\.2: engine=vllm works with 0\.32 to 0\.33",
    ("engine.version=new",): "vLLM new",
    ("engine.url=http://node7:8000",): "another machine.*ZOO_EXP_REMOTE_ENGINE=1",
    ("engine.url=nowhere",): "give http://HOST:PORT",
    ("engine.arms_per_call=4",): r"engine\.arms_per_call=4 is for engine=hf",
    ("engine.via=pixels",): "allowed are auto, image_embeds, prompt_embeds",
    ("engine=hf", "engine.url=8000"): "type engine=vllm",
}


@pytest.mark.parametrize("texts", REFUSED, ids=" ".join)
def test_what_vllm_cannot_run_is_refused(texts):
    with pytest.raises(ZooExpError, match=REFUSED[texts]) as raised:
        compose([*ZOO, *VLLM, *texts])
    assert "\n" not in str(raised.value)


def test_without_vllm_the_message_says_what_to_install(monkeypatch, capsys):
    def missing(name):
        raise engines.PackageNotFoundError(name)

    monkeypatch.setattr(engines, "version", missing)
    assert main(["run", *ZOO, "engine=vllm", "logger=none"]) == 2
    assert "vLLM is not installed. pip install 'zoo-exp[vllm]'" in capsys.readouterr().err


def test_the_version_is_that_of_the_installed_package(monkeypatch):
    def version(name):
        if name == "vllm":
            raise engines.PackageNotFoundError(name)
        return "0.32.1"

    monkeypatch.setattr(engines, "version", version)
    assert engines.with_version(EngineConfig(name="vllm")).version == "0.32.1"


def test_a_server_on_another_machine_needs_permission(monkeypatch):
    monkeypatch.setenv(engines.REMOTE, "1")
    assert engines.server_url("https://node7:8000/v1/") == "https://node7:8000"
    assert engines.server_url("8123") == "http://127.0.0.1:8123"
    monkeypatch.setenv(engines.REMOTE, "yes")
    with pytest.raises(InvalidValueError, match="another machine"):
        engines.server_url("http://127.0.0.1.example.org:8000")


@pytest.mark.parametrize("command", ["tokens", "bench"])
def test_commands_that_look_inside_refuse_another_engine(command, capsys):
    assert main([command, *ZOO, *VLLM]) == 2
    assert f"{command} works with transformers: leave engine=vllm out" in capsys.readouterr().err
