"""The generator of an experiment, from its configuration."""

from pathlib import Path

from zoo_exp.config.schema import EngineConfig, ModelConfig
from zoo_exp.embedded.shipped import is_shipped, shipped_folder
from zoo_exp.models.generators import Generator, HfGenerator
from zoo_exp.models.loading import LoadedModel


def open_generator(engine: EngineConfig, model: ModelConfig, loaded: LoadedModel) -> Generator:
    """The engine that an experiment asks for: `transformers`, vLLM in this process, or a vLLM server.

    Args:
        engine: from `configs/engine/`.
        model: configuration of the model.
        loaded: the model; for vLLM its decoder may be cut.

    Raises:
        ZooExpError: vLLM is missing, of another version or cannot start; or no server answers.
    """
    if engine.name == "hf":
        return HfGenerator(loaded.model)
    path = checkpoint_of(model)
    if engine.url is not None:
        from zoo_exp.serving.vllm_http import ServerGenerator

        return ServerGenerator(loaded, engine.url, path, engine.via)
    from zoo_exp.serving.vllm_engine import EngineOptions, VllmGenerator

    options = EngineOptions(
        via=engine.via,
        tensor_parallel=engine.tensor_parallel,
        max_model_len=engine.max_model_len,
        gpu_memory=engine.gpu_memory,
        dtype=dtype_of(loaded),
        revision=model.revision,
    )
    return VllmGenerator(loaded, path, options)


def checkpoint_of(model: ModelConfig) -> str:
    """The folder or hub id that vLLM loads."""
    if is_shipped(model.path):
        return str(shipped_folder(model.path))
    folder = Path(model.path).expanduser()
    return str(folder) if folder.is_dir() else model.path


def dtype_of(loaded: LoadedModel) -> str:
    """The dtype of the loaded model, such as `bfloat16`: embeddings and decoder have the same."""
    return str(loaded.model.dtype).removeprefix("torch.")
