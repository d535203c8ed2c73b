"""Checkpoints as vLLM reads them: published names of weights, and the settings of a whole processor."""

import json

import pytest
import torch
from safetensors import safe_open

from zoo_exp.embedded.hub_names import save_model_files
from zoo_exp.embedded.shipped import shipped_folder
from zoo_exp.models.tiny import tiny_model
from zoo_exp.serving.checkpoints import VIDEO, for_vllm


@pytest.mark.parametrize("family", ["llava", "llava_next", "qwen2_5_vl"])
def test_saved_models_have_published_names_and_load_again(family, tmp_path):
    model = tiny_model(family)
    save_model_files(model, tmp_path)
    with safe_open(tmp_path / "model.safetensors", "pt") as file:
        names = [name for name in file.keys() if "vision_tower" in name]  # noqa: SIM118 - not a mapping
    assert all(name.startswith("vision_tower.vision_model.") for name in names)
    assert bool(names) == (family != "qwen2_5_vl")
    again, info = type(model).from_pretrained(tmp_path, output_loading_info=True)
    assert not info["missing_keys"]
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight), name


def test_a_qwen_without_video_settings_gets_them_beside_its_files(tmp_path):
    shipped = shipped_folder("embedded_qwen")
    with for_vllm(str(shipped)) as folder:
        files = {path.name: path for path in type(shipped)(folder).iterdir()}
        assert files["model.safetensors"].resolve() == (shipped / "model.safetensors").resolve()
        settings = json.loads(files[VIDEO].read_text())
        assert (settings["video_processor_type"], settings["patch_size"]) == ("Qwen2VLVideoProcessor", 4)
        assert not (shipped / VIDEO).exists()
    assert not files[VIDEO].exists()
    for name in (str(shipped_folder("embedded")), "Qwen/Qwen2.5-VL-7B-Instruct"):
        with for_vllm(name) as same:
            assert same == name
