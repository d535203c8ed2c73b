"""The embedded VLM: stock LLaVA classes, about two million parameters, and an initialisation that can see."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from zoo_exp.embedded.packing import MEAN, STD
from zoo_exp.embedded.scene import GRID, IMAGE_SIZE, PATCH_SIZE
from zoo_exp.embedded.vocabulary import BOS, CHAT_TEMPLATE, EOS, IMAGE, PAD, TOKEN_ID, TOKENS, make_tokenizer
from zoo_exp.errors import MissingFileError

if TYPE_CHECKING:
    from transformers import LlavaForConditionalGeneration, LlavaProcessor

WEIGHTS = Path(__file__).parent / "weights"
WIDTH = 128
VISION_LAYERS, VISION_HEADS = 6, 4
TEXT_LAYERS, TEXT_HEADS, TEXT_HIDDEN = 4, 4, 320


def weights_folder() -> Path:
    """The folder with the packaged checkpoint, for `from_pretrained`.

    Raises:
        MissingFileError: the package came without weights.
    """
    if not (WEIGHTS / "model.safetensors").is_file():
        raise MissingFileError(
            f"the embedded model's weights are missing ({WEIGHTS / 'model.safetensors'}): "
            "reinstall the package, or train them: python -m zoo_exp embedded train"
        )
    return WEIGHTS


def make_model(seed: int = 0) -> "LlavaForConditionalGeneration":
    """A freshly initialised model: CLIP tower (CLS, features of the last layer but one), GELU projector, Llama."""
    from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=4 * WIDTH,
        num_hidden_layers=VISION_LAYERS,
        num_attention_heads=VISION_HEADS,
        image_size=IMAGE_SIZE,
        patch_size=PATCH_SIZE,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        vocab_size=-(-len(TOKENS) // 16) * 16,
        hidden_size=WIDTH,
        intermediate_size=TEXT_HIDDEN,
        num_hidden_layers=TEXT_LAYERS,
        num_attention_heads=TEXT_HEADS,
        num_key_value_heads=TEXT_HEADS,
        max_position_embeddings=2048,
        tie_word_embeddings=True,
        bos_token_id=TOKEN_ID[BOS],
        eos_token_id=TOKEN_ID[EOS],
        pad_token_id=TOKEN_ID[PAD],
    )
    config = LlavaConfig(
        vision_config=vision.to_dict(),
        text_config=text.to_dict(),
        image_token_index=TOKEN_ID[IMAGE],
        image_seq_length=GRID * GRID,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        projector_hidden_act="gelu",
        tie_word_embeddings=True,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = LlavaForConditionalGeneration(config)
        _initialise(model)
    return model


def make_processor() -> "LlavaProcessor":
    """Image processor and tokenizer, as they are saved beside the weights."""
    from transformers import CLIPImageProcessor, LlavaProcessor

    images = CLIPImageProcessor(
        size={"shortest_edge": IMAGE_SIZE},
        crop_size={"height": IMAGE_SIZE, "width": IMAGE_SIZE},
        image_mean=list(MEAN),
        image_std=list(STD),
    )
    return LlavaProcessor(
        image_processor=images,
        tokenizer=make_tokenizer(),
        patch_size=PATCH_SIZE,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT_TEMPLATE,
        image_token=IMAGE,
    )


def _initialise(model: nn.Module) -> None:
    """Small residual branches, sin-cos positions, and attention that starts near "look at yourself".

    Plain initialisation stays at chance on patches for a long time; with mimetic attention
    (Trockman and Kolter, 2023: q k^T near the identity, v o near minus the identity) the tower moves at once.
    """
    residual = ("o_proj.weight", "down_proj.weight", "out_proj.weight", "fc2.weight")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 2 and "embed" not in name:
                nn.init.normal_(parameter, std=0.7 * parameter.shape[1] ** -0.5)
                if name.endswith(residual):
                    parameter.mul_(0.4)
        model.model.language_model.embed_tokens.weight.normal_(std=0.05)
        tower = model.model.vision_tower
        embeddings = tower.embeddings
        embeddings.position_embedding.weight[1:].copy_(_sin_cos_positions())
        embeddings.position_embedding.weight[0].zero_()
        embeddings.class_embedding.normal_(std=0.5)
        patch = embeddings.patch_embedding.weight
        nn.init.normal_(patch, std=0.45 * patch[0].numel() ** -0.5)
        for layer in tower.encoder.layers:
            _mimetic_attention(layer.self_attn)


def _sin_cos_positions() -> Tensor:
    """Two-dimensional sin-cos position embeddings [N, WIDTH]."""
    frequency = torch.exp(torch.linspace(math.log(0.06), math.log(1.2), WIDTH // 4))
    line = torch.arange(GRID).float()
    y, x = (axis.flatten()[:, None] * frequency for axis in torch.meshgrid(line, line, indexing="ij"))
    return torch.cat([y.sin(), y.cos(), x.sin(), x.cos()], 1)


def _mimetic_attention(attention: nn.Module) -> None:
    head = WIDTH // VISION_HEADS
    noise = WIDTH**-0.5
    queries, keys = [], []
    for _ in range(VISION_HEADS):
        u, s, vh = torch.linalg.svd(torch.randn(WIDTH, WIDTH) * 0.7 * noise + 0.7 * torch.eye(WIDTH))
        root = s[:head].sqrt()[:, None] * 0.7
        queries.append(root * u[:, :head].T)
        keys.append(root * vh[:head])
    attention.q_proj.weight.copy_(torch.cat(queries))
    attention.k_proj.weight.copy_(torch.cat(keys))
    attention.q_proj.bias.zero_()
    attention.k_proj.bias.zero_()
    u, s, vh = torch.linalg.svd(torch.randn(WIDTH, WIDTH) * 0.4 * noise - 0.4 * torch.eye(WIDTH))
    attention.v_proj.weight.copy_(s.sqrt()[:, None] * vh)
    attention.out_proj.weight.copy_(u * s.sqrt())
