"""CLIP's embeddings of patches and of a question, from a full CLIP, as VLM checkpoints do not contain its heads."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from zoo_exp.core.tokens import VisualTokens
from zoo_exp.errors import InvalidValueError, MissingFileError

SEGMENT = 77
"""Maximum length of CLIP's text encoder."""
_PROMPT_SENTENCE = "\nAnswer the question using a single word or phrase."


class ClipHeads:
    """The final layer norm, the projections and the text encoder of a full CLIP, in float32.

    Args:
        model: a `transformers.CLIPModel`.
        tokenizer: its tokenizer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        self.model: Any = model.float().eval()
        self.tokenizer: Any = tokenizer

    @classmethod
    def load(cls, path: str) -> "ClipHeads":
        """Read a full CLIP from a folder or the hub (safetensors only).

        Raises:
            MissingFileError: the checkpoint cannot be read, or is not a full CLIP.
        """
        from transformers import AutoConfig, AutoTokenizer, CLIPModel

        try:
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
            if config.model_type != "clip":
                raise MissingFileError(
                    f"clip '{path}' is a model of type {config.model_type}: give the folder or hub id of a full CLIP "
                    "(type clip, with its text encoder)"
                )
            model = CLIPModel.from_pretrained(path, use_safetensors=True, trust_remote_code=False)
            tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=False)
        except (OSError, ValueError) as error:
            if isinstance(error, MissingFileError):
                raise
            reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
            raise MissingFileError(
                f"clip '{path}' cannot be read ({reason.rstrip('.')}): give a folder or hub id of a full CLIP, such as "
                "openai/clip-vit-large-patch14-336"
            ) from error
        return cls(model, tokenizer)

    def check(self, vision_config: Any, path: str | Path = "") -> None:
        """Check that the CLIP matches the VLM's vision encoder.

        Raises:
            InvalidValueError: the VLM's vision encoder is not a CLIP, or has another size.
        """
        mine = self.model.config.vision_config
        sizes = ("hidden_size", "num_hidden_layers", "patch_size")
        if vision_config.model_type != "clip_vision_model":
            raise InvalidValueError(
                f"clip '{path}': the vision encoder of this model is a {vision_config.model_type}, not a CLIP; leave "
                "clip out"
            )
        for size in sizes:
            if getattr(vision_config, size) != getattr(mine, size):
                raise InvalidValueError(
                    f"clip '{path}': its {size} is {getattr(mine, size)}, the vision encoder's "
                    f"{getattr(vision_config, size)}: give the CLIP that the model was made of"
                )

    def add(self, tokens: Sequence[VisualTokens], question: str) -> list[VisualTokens]:
        """Add embeddings of patches and of the question to the images of one prompt; requires `features`."""
        images = [self.image(t.features) for t in tokens if t.features is not None]
        text = self.text(question) if images else None
        return [replace(t, clip_image=image, clip_text=text) for t, image in zip(tokens, images, strict=True)]

    @torch.no_grad()
    def image(self, features: Tensor) -> Tensor:
        """Embeddings of patches [N, c], from the features of the layer that goes to the projector [N, Dv]."""
        self.model.to(features.device)
        normed = self.model.vision_model.post_layernorm(features.float())
        projected: Tensor = self.model.visual_projection(normed)
        return projected

    @torch.no_grad()
    def text(self, question: str) -> Tensor:
        """Embeddings of the question's segments of 77 tokens [S, c], each pooled at its largest id.

        As in CDPruner's release (9541616): tokenised with both ends, filled with zeros to a multiple of 77.
        """
        ids = torch.tensor(self.tokenizer(question.replace(_PROMPT_SENTENCE, ""))["input_ids"])
        segments = -(-len(ids) // SEGMENT)
        padded = torch.nn.functional.pad(ids, (0, segments * SEGMENT - len(ids))).view(segments, SEGMENT)
        mask = (torch.arange(segments * SEGMENT) < len(ids)).long().view(segments, SEGMENT)
        device = self.model.text_projection.weight.device
        encoder = self.model.text_model
        states = encoder(input_ids=padded.to(device), attention_mask=mask.to(device)).last_hidden_state
        pooled = states[torch.arange(segments), padded.argmax(dim=1)]
        embedded: Tensor = self.model.text_projection(pooled)
        return embedded
