"""Configurations small enough for tests, made from the configuration class of any model type of `transformers`."""

from typing import Any

VOCABULARY, IMAGE, VIDEO, START, END = 128, 97, 98, 95, 96
_TOKENS = {
    "image_token_id": IMAGE,
    "image_token_index": IMAGE,
    "video_token_id": VIDEO,
    "video_token_index": VIDEO,
    "vision_start_token_id": START,
    "vision_end_token_id": END,
    "image_start_token_id": START,
    "image_end_token_id": END,
    "video_start_token_id": 93,
    "video_end_token_id": 94,
    "boi_token_id": START,
    "eoi_token_id": END,
    "boi_token_index": START,
    "eoi_token_index": END,
    "audio_token_id": 92,
    "boa_token_id": 91,
    "eoa_token_id": 90,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_TEXT = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
    "sliding_window": 24,
    "attention_chunk_size": 24,
    "intermediate_size_mlp": 48,
    "moe_intermediate_size": 16,
    "shared_expert_intermediate_size": 16,
    "shared_experts_intermediate_size": 16,
    "share_expert_dim": 16,
    "num_experts": 4,
    "num_local_experts": 4,
    "n_routed_experts": 4,
    "moe_num_experts": 4,
    "num_experts_per_tok": 2,
    "moe_topk": 2,
    "moe_k": 2,
    "n_shared_experts": 1,
    "n_group": 1,
    "topk_group": 1,
    "q_lora_rank": 16,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 8,
    "v_head_dim": 8,
    "hidden_size_per_layer_input": 8,
    "vocab_size_per_layer_input": VOCABULARY,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
    "index_topk": 512,
    "index_head_dim": 8,
    "index_n_heads": 2,
    "num_kv_shared_layers": 2,
    "laurel_rank": 4,
    "activation_sparsity_pattern": 0.0,
    "conv_L_cache": 3,
    "block_ff_dim": 48,
    "mamba_num_heads": 4,
    "mamba_head_dim": 8,
    "n_groups": 1,
    "ssm_state_size": 8,
}
_VISION = {
    "hidden_size": 32,
    "embed_dim": 32,
    "intermediate_size": 48,
    "mlp_dim": 48,
    "num_hidden_layers": 3,
    "depth": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "num_heads": 4,
    "head_dim": 8,
    "projection_dim": 32,
    "image_size": 56,
    "patch_size": 14,
    "out_hidden_size": 32,
    "num_position_embeddings": 64,
    "deepstack_visual_indexes": [0, 1],
    "output_channels": 16,
    "global_attn_indexes": [1],
    "window_size": 4,
    "fullatt_block_indexes": [1],
}


def tiny_config(config_class: Any, **changes: Any) -> Any:
    """A configuration of a few thousand weights; `changes` are merged over what the tables say."""
    default = config_class().to_dict()
    return config_class(**_merge(_shrunk(default, "text" if "vocab_size" in default else ""), changes))


def _shrunk(default: dict[str, Any], kind: str) -> dict[str, Any]:
    """Of every entry of a configuration that a table knows, the small value; sub-configurations likewise."""
    table = {"text": _TEXT, "vision": _VISION}.get(kind, {})
    small: dict[str, Any] = {}
    for name, value in default.items():
        if isinstance(value, dict) and "model_type" in value:
            small[name] = {"model_type": value["model_type"], **_shrunk(value, _kind(name, kind))}
        elif name in _TOKENS:
            small[name] = _TOKENS[name]
        elif name in table and value is not None:
            small[name] = table[name]
            if isinstance(small[name], int) and isinstance(value, list) and "size" in name:
                small[name] = [small[name]] * len(value)
    layers = small.get("num_hidden_layers")
    for name in ("layer_types", "mlp_layer_types"):
        if isinstance(default.get(name), list) and layers:
            kinds = sorted(set(default[name]), key=default[name].index)
            small[name] = [kinds[i % len(kinds)] for i in range(layers)]
    return small


def _kind(name: str, outer: str) -> str:
    if "text" in name or name in ("llm_config", "decoder"):
        return "text"
    if "vision" in name or outer == "vision":
        return "vision"
    return outer


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        inner = merged.get(name)
        merged[name] = _merge(inner, value) if isinstance(value, dict) and isinstance(inner, dict) else value
    return merged
