"""Tiny random models of every family, and selectors that make every path of the engine visible."""

import inspect
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
import transformers
from own_families import layouts
from transformers.models.llava.modeling_llava import LlavaModel

from zoo_exp.core.tokens import Selection
from zoo_exp.models.tiny import tiny_inputs, tiny_model
from zoo_exp.selectors.base import Selector

REPEATS_PIXELS = "mm_encoder_outputs" not in inspect.signature(LlavaModel.forward).parameters
"""Whether this version of transformers repeats pixels for beams (5.17), and so mixes up the images of a prompt."""


@dataclass(frozen=True)
class Every(Selector):
    """Keeps every third token, from the image's own number of tokens modulo 2 on; `merge` doubles the features."""

    name: ClassVar[str] = "every"
    step: int = 3
    merge: bool = False

    def select(self, tokens, budget, generator, scores=None):
        """Indices by rule."""
        index = torch.arange(tokens.count % 2, tokens.count, self.step, device=tokens.device)
        return Selection(index, None, tokens.projected[index] * 2 if self.merge else None)


@pytest.fixture(scope="session", autouse=True)
def _quiet():
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def models():
    """Models by (family, attention backend), made once; a test must leave them as it found them."""
    made = {}

    def get(family, attention="sdpa", dtype=torch.float32):
        key = (family, attention, dtype)
        if key not in made:
            made[key] = tiny_model(family, attention=attention, dtype=dtype)
        return made[key]

    return get


@pytest.fixture
def inputs():
    """Prompts for a model: `inputs(model, layout)`."""
    return lambda model, layout, **options: tiny_inputs(
        model, layouts(model.config.model_type)[layout], **options
    )


@pytest.fixture
def every():
    """The class `Every`."""
    return Every


@pytest.fixture
def mixes_up_images():
    """Whether beams of the "ragged" batch of a family get the wrong images from this version of transformers."""
    return lambda family: REPEATS_PIXELS and family != "qwen2_5_vl"


GREEDY = {"do_sample": False, "output_logits": True, "return_dict_in_generate": True}


@pytest.fixture
def answer():
    """Greedy ids [B, T] and logits [T, B, V] of the new tokens."""

    def run(model, given, steps=8, **options):
        with torch.no_grad():
            out = model.generate(**given, max_new_tokens=steps, **{**GREEDY, **options})
        return out.sequences[:, -steps:], torch.stack(out.logits)

    return run
