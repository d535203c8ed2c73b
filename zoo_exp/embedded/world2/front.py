"""The first stage of a model behind the decoder of another: new layers in front learn where visual tokens are."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from zoo_exp.embedded.packed_forward import Rope, decode_packed
from zoo_exp.embedded.world2.place_codes import PlaceCodes
from zoo_exp.embedded.world2.plan import Plan

RATE, WARMUP = 3e-3, 30
SLOTS = 24  # scenes of so many steps, again and again
KEEP_WEIGHT = 5.0  # of what the tokens show, next to where they are
STD = 0.02  # output weights at the start: zeros would let no gradient into the layers


class Prompts(NamedTuple):
    """Whole prompts before the decoder.

    Attributes:
        tokens: embedded tokens [B, P, D].
        rope: cosine and sine of their positions.
        visual: numbers of the visual tokens that show something [N].
        places: their x and y in -1 to 1 [N, 2].
    """

    tokens: Tensor
    rope: Rope
    visual: Tensor
    places: Tensor


def behind_front(llm: Any, prompts: Prompts, layers: int) -> Tensor:
    """States of all tokens behind the first layers [B, P, D]."""
    batch, device = len(prompts.tokens), prompts.tokens.device
    blank = torch.zeros(batch, 1, dtype=torch.long, device=device)
    rope = tuple(part[..., -1:, :] for part in prompts.rope)
    _, states = decode_packed(
        llm,
        prompts.tokens,
        prompts.rope,
        llm.embed_tokens(blank),
        rope,
        blank,
        layers,
        compute=torch.bfloat16,
    )
    assert states is not None
    return states


def normalised(states: Tensor) -> Tensor:
    """States of mean square 1."""
    return functional.rms_norm(states, states.shape[-1:])


def learn_places(learner: Any, advance: Callable[[int], None] = lambda done: None) -> float:
    """Train the layers in front, and nothing else, until tokens are where the decoder reads places.

    All else must not change: the normalised states of visual tokens differ from their features in the directions of
    the places alone, those of text not at all.

    Args:
        learner: a learner with `codes`, whose decoder has `plan.front_layers` new layers in front.
        advance: called after each step with the number of steps done.

    Returns:
        The distance to the codes in the last step, as `PlaceCodes` measures it.
    """
    plan: Plan = learner.plan
    codes: PlaceCodes = learner.codes
    llm = learner.model.model.language_model
    new = [parameter for layer in llm.layers[: plan.front_layers] for parameter in layer.parameters()]
    needed = {parameter: parameter.requires_grad for parameter in learner.parameters()}
    learner.requires_grad_(False)
    for parameter in new:
        parameter.requires_grad_(True)
    _unzero(llm, plan)
    optimiser = torch.optim.AdamW(new, lr=RATE, betas=(0.9, 0.98), weight_decay=0.0)
    batches: dict[int, Prompts] = {}
    distance = torch.zeros(())
    with only_first(llm, plan.front_layers):
        for step in range(plan.front_steps):
            slot = step % SLOTS
            if slot not in batches:
                batches[slot] = learner.prompts(slot)
            prompts = batches[slot]
            states = behind_front(llm, prompts, plan.front_layers)
            distance = codes(states[:, prompts.visual], prompts.places)
            change = normalised(states) - normalised(prompts.tokens)
            seen = change[:, prompts.visual]
            change = change.index_copy(1, prompts.visual, seen - (seen @ codes.basis.T) @ codes.basis)
            optimiser.zero_grad()
            (distance + KEEP_WEIGHT * change.square().mean()).backward()
            torch.nn.utils.clip_grad_norm_(new, 1.0)
            pace = min(1.0, (step + 1) / WARMUP) * min(1.0, 2 * (1 - step / plan.front_steps))
            for group in optimiser.param_groups:
                group["lr"] = RATE * pace
            optimiser.step()
            advance(step + 1)
    for parameter, need in needed.items():
        parameter.requires_grad_(need)
        parameter.grad = None
    return float(distance.detach())


@torch.no_grad()
def _unzero(llm: nn.Module, plan: Plan) -> None:
    generator = torch.Generator().manual_seed(plan.seed)
    for layer in llm.layers[: plan.front_layers]:
        for weight in (layer.self_attn.o_proj.weight, layer.mlp.down_proj.weight):
            weight.copy_(torch.randn(weight.shape, generator=generator) * STD)


@contextmanager
def only_first(llm: nn.Module, layers: int) -> Iterator[None]:
    """A decoder of its first layers, and one more that reads them."""
    whole = llm.layers
    llm.layers = nn.ModuleList(whole[: layers + 1])
    try:
        yield
    finally:
        llm.layers = whole
