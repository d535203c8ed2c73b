"""Entry point `vllm.general_plugins`: model classes that take pruned prompts, registered by name only.

vLLM calls `register` in each of its processes. It imports nothing besides vLLM's registry, may be called again, and
changes nothing for requests without pruned embeddings. VLLM_PLUGINS of vLLM switches it off.
"""

CLASSES = {
    "LlavaForConditionalGeneration": "PrunedLlava",
    "LlavaNextForConditionalGeneration": "PrunedLlavaNext",
    "Qwen2_5_VLForConditionalGeneration": "PrunedQwen",
}
"""Architecture in config.json -> class of `vllm_models`."""


def register() -> None:
    """Register the classes with vLLM, which imports them when it loads such a model."""
    from vllm import ModelRegistry

    for architecture, name in CLASSES.items():
        ModelRegistry.register_model(architecture, f"zoo_exp.serving.vllm_models:{name}")
