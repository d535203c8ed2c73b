"""What types of `transformers` need besides the tables of `tiny_configs`, and which are out of reach."""

import inspect
from typing import Any

from transformers import VipLlavaConfig
from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import MiniMaxM3VLVisionAttention

QWEN_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [2, 1, 1]}
_MROPE = {"text_config": {"rope_parameters": QWEN_ROPE}}
_GLM = {"text_config": {"rope_parameters": {**QWEN_ROPE, "partial_rotary_factor": 1.0}}}
_WINDOW_28 = {"vision_config": {"window_size": 56}}
_OMNI = {
    "audio_config": {
        "encoder_layers": 1,
        "encoder_attention_heads": 2,
        "encoder_ffn_dim": 16,
        "d_model": 16,
        "output_dim": 32,
        "num_mel_bins": 8,
        "downsample_hidden_size": 8,
    },
    **_MROPE,
}
_MINICPM = {
    "image_size": 56,
    "patch_size": 14,
    "insert_layer_id": 1,
    "vision_config": {"insert_layer_id": 1},
}
_LATENT = {"num_key_value_heads": 4}
_VIPLLAVA_LAYERS = next(n for n in VipLlavaConfig().to_dict() if n.startswith("vision_feature_layer"))
"""`vision_feature_layers` before transformers 5.23."""
CHANGES: dict[str, dict[str, Any]] = {
    "aria": {"projector_patch_to_query_dict": {16: 8}},
    "cohere_compass": {
        "text_config": {
            "rope_parameters": {
                kind: {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 2]}
                for kind in ("full_attention", "sliding_attention")
            }
        }
    },
    "cosmos3_edge": {**_MROPE, "projector_hidden_size": 48, "vision_config": {"num_patches": 64}},
    "cosmos3_omni": _MROPE,
    "deepseek_vl_hybrid": {
        "high_res_vision_config": {"image_size": 64, "patch_size": 4, "output_channels": 16}
    },
    "dots3_note": {"text_config": {**_LATENT, "per_layer_config": {}}},
    "ernie4_5_vl_moe": {
        "text_config": {
            "moe_intermediate_size": [16, 16],
            "rope_parameters": {**QWEN_ROPE, "mrope_section": [1, 1, 2]},
        }
    },
    "exaone4_5": _WINDOW_28,
    "gemma3": {"mm_tokens_per_image": 4},
    "got_ocr2": {"vision_config": {"image_size": 112}},
    "pp_chart2table": {"vision_config": {"image_size": 112}},
    "gemma4": {
        "vision_config": {
            "model_type": "gemma4_vision",
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "head_dim": 8,
            "patch_size": 4,
            "pooling_kernel_size": 2,
            "position_embedding_size": 64,
        },
        "text_config": {"per_layer_config": {}},
    },
    "glm46v": _GLM,
    "glm4v": _GLM,
    "glm4v_moe": {"text_config": {"rope_parameters": {**QWEN_ROPE, "partial_rotary_factor": 1.0}}},
    "glm_ocr": _GLM,
    "glmga": _GLM,
    "glm5_next": {
        "text_config": {**_LATENT, "qk_rope_head_dim": 0, "linear_head_dim": 8, "linear_num_heads": 4},
        "vision_config": {"projection_intermediate_size": 48},
    },
    "hunyuan_vl": {
        "text_config": {
            "head_dim": 8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [1, 1, 1, 1]},
        },
        "vision_config": {
            "text_hidden_size": 32,
            "max_image_size": 112,
            "min_image_size": 14,
            "img_max_token_num": 64,
        },
    },
    "hyperclovax_vision_v2": _WINDOW_28,
    "inkling2": {
        "text_config": {
            "swa_num_attention_heads": 4,
            "swa_num_key_value_heads": 2,
            "swa_head_dim": 8,
            "sliding_window_size": 24,
        },
        "vision_config": {"text_hidden_size": 32, "projection_hidden_dim": 48},
    },
    "janus": {
        "vision_config": {"num_image_tokens": 16},
        "vq_config": {
            "embed_dim": 8,
            "num_embeddings": 16,
            "latent_channels": 32,
            "base_channels": 32,
            "channel_multiplier": [1],
            "num_res_blocks": 1,
            "projection_dim": 32,
            "num_patches": 4,
            "image_token_embed_dim": 32,
        },
    },
    "kimi_k25": {
        "text_config": {**_LATENT, "first_k_dense_replace": 1, "head_dim": 4},
        "projection_hidden_size": 32,
    },
    "llama4": {
        "vision_config": {
            "vision_output_dim": 32,
            "projector_input_dim": 32,
            "intermediate_size": 128,
            "projector_output_dim": 32,
        },
        "text_config": {"num_experts_per_tok": 1},
    },
    "llava_next_video": {"image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]},
    "llava_onevision": {"image_grid_pinpoints": [[56, 112], [112, 56], [112, 112]]},
    "minicpm_ocr": {**_MINICPM, **_MROPE},
    "minicpmv4_6": {**_MINICPM, **_MROPE},
    "minicpmv4_7": {**_MINICPM, **_MROPE},
    "mistral_large4": {"text_config": {**_LATENT, "head_dim": 4, "no_rope_layers": [1] * 4}},
    "muse_glimmer": {"out_hidden_size": 128, "projector_hidden_size": 48},
    "paddleocr_vl": _MROPE,
    "paligemma": {"projection_dim": 32},
    "qwen2_5_omni_thinker": {**_OMNI, **_WINDOW_28},
    "qwen2_vl": _MROPE,
    "qwen3_5": _MROPE,
    "qwen3_5_moe": _MROPE,
    "qwen3_omni_moe_thinker": _OMNI,
    "qwen3_vl": _MROPE,
    "qwen3_vl_moe": _MROPE,
    "qwen4_exp": _MROPE,
    "shieldgemma2": {"mm_tokens_per_image": 4},
    "step3p7": {"text_config": {"sliding_window": 24}, "vision_config": {"image_size": 112}},
    "vipllava": {_VIPLLAVA_LAYERS: [-2, -1]},
}
"""What a type needs besides the tables of `tiny_configs`."""
_NEEDS_TIMM = "its vision encoder is one of timm, which is not installed"
_SIZES = "its configuration ties sizes together in a way that no small model has been found for"
CANNOT_BE_BUILT: dict[str, str] = {
    "deepseek_ocr2": _SIZES,
    "dots3_note": _SIZES,
    "fast_vlm": _NEEDS_TIMM,
    "gemma3n": _NEEDS_TIMM,
    "gemma4_unified": _SIZES,
    "granite4_vision": _SIZES,
    "inkling2": _SIZES,
    "inkling_mm_model": _SIZES,
    "mistral4": "a language model without images, although transformers lists it among the vision-language models",
    "molmo2": _SIZES,
    "muse_spark": _SIZES,
    "nemotron_h_omni": _SIZES,
    "perception_lm": _NEEDS_TIMM,
    "qwen2_5_omni_thinker": "transformers 5.23 itself fails on it: its configuration has no vision_start_token_id",
    "qwen3_omni_moe_thinker": "transformers 5.23 itself fails on it: its configuration has no vision_start_token_id",
    "qwen4_exp": _SIZES,
    "unlimited_ocr": _SIZES,
}
"""Types that the engine may well prune, but of which no tiny model could be made to show it."""
ENCODES_MORE = ("granite_docling", "ovis2")
"""Types whose encoder gives more than rows for the placeholders."""
BATCH_DEPENDS = {
    "hunyuan_vl": "transformers numbers images over the batch, so that a row's positions depend on others"
}
"""Types whose unpruned answers depend on the other rows of a batch."""
if "cu_seqlens" not in inspect.signature(MiniMaxM3VLVisionAttention.forward).parameters:  # 5.17
    BATCH_DEPENDS["minimax_m3_vl"] = (
        "this version of transformers lets the images of a batch attend to each other"
    )
