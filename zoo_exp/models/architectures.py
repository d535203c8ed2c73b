"""Configurations of the checkpoints that `configs/model/` names, for random weights without a download."""

from typing import Any

_CLIP_L_336 = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
_LLAMA_7B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "pad_token_id": 32001,
}
_LLAMA_13B = {
    **_LLAMA_7B,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
_LLAVA = {
    "vision_config": _CLIP_L_336,
    "vision_feature_layer": -2,
    "vision_feature_select_strategy": "default",
    "projector_hidden_act": "gelu",
    "image_token_id": 32000,
}
_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
_QWEN_VISION = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "num_heads": 16,
    "out_hidden_size": 3584,
    "patch_size": 14,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "window_size": 112,
    "fullatt_block_indexes": [7, 15, 23, 31],
}
_QWEN_TEXT = {
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 128000,
    "rms_norm_eps": 1e-6,
    "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0, "mrope_section": [16, 24, 24]},
}

ARCHITECTURES: dict[str, tuple[str, dict[str, Any]]] = {
    "llava-hf/llava-1.5-7b-hf": (
        "LlavaConfig",
        {**_LLAVA, "text_config": _LLAMA_7B, "image_seq_length": 576},
    ),
    "llava-hf/llava-1.5-13b-hf": (
        "LlavaConfig",
        {**_LLAVA, "text_config": _LLAMA_13B, "image_seq_length": 576},
    ),
    "llava-hf/llava-v1.6-vicuna-7b-hf": (
        "LlavaNextConfig",
        {**_LLAVA, "text_config": _LLAMA_7B, "image_grid_pinpoints": _PINPOINTS},
    ),
    "Qwen/Qwen2.5-VL-7B-Instruct": (
        "Qwen2_5_VLConfig",
        {
            "vision_config": _QWEN_VISION,
            "text_config": _QWEN_TEXT,
            "image_token_id": 151655,
            "video_token_id": 151656,
            "vision_start_token_id": 151652,
            "vision_end_token_id": 151653,
            "tie_word_embeddings": False,
        },
    ),
}
"""Hub id -> configuration class and its arguments (sizes: spec: engine 6)."""


def architecture(name: str) -> Any:
    """A fresh configuration of a known checkpoint."""
    import copy

    import transformers

    kind, arguments = ARCHITECTURES[name]
    return getattr(transformers, kind)(**copy.deepcopy(arguments))
