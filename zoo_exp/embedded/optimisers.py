"""Muon for weight matrices, AdamW for everything else, each at the tower's own pace."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn


class BatchedMuon(torch.optim.Optimizer):
    """Muon (Jordan et al., 2024) in float32, matrices of one shape orthogonalised together.

    `torch.optim.Muon` walks over the matrices one by one in bfloat16; on two CPU cores with sixty small
    matrices that costs a fifth of a training step. Updates have AdamW's RMS (scale 0.2 sqrt(max side)).
    """

    def __init__(
        self, params: Iterable[dict], lr: float, momentum: float = 0.95, weight_decay: float = 0.05
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[tuple[Tensor, Tensor, bool, float]]] = {}
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                average = self.state[parameter].setdefault("average", torch.zeros_like(parameter))
                average.lerp_(parameter.grad, 1 - group["momentum"])
                update = parameter.grad.lerp(average, group["momentum"]).flatten(1)
                parameter.mul_(1 - group["lr"] * group["weight_decay"])
                # A fused matrix stores the number of its parts; a large one may store a learning-rate factor.
                parts, gain = getattr(parameter, "parts", 1), getattr(parameter, "gain", 1.0)
                flat = parameter.view(len(parameter), -1)
                for rows, part in zip(flat.chunk(parts), update.chunk(parts), strict=True):
                    tall = part.shape[0] > part.shape[1]
                    part = part.T if tall else part
                    by_shape.setdefault(part.shape, []).append((rows, part, tall, gain))
            for shape, members in by_shape.items():
                ortho = _orthogonalise(torch.stack([part for _, part, _, _ in members]))
                scale = 0.2 * max(shape) ** 0.5
                for (rows, _, tall, gain), part in zip(members, ortho, strict=True):
                    rows.add_(part.T if tall else part, alpha=-group["lr"] * gain * scale)


def _orthogonalise(updates: Tensor) -> Tensor:
    """Five Newton-Schulz steps towards the nearest orthogonal matrices [count, rows, columns], rows <= columns."""
    x = updates / (updates.norm(dim=(1, 2), keepdim=True) + 1e-7)
    for _ in range(5):
        gram = x @ x.mT
        x = 3.4445 * x + (2.0315 * gram @ gram - 4.7750 * gram) @ x
    return x


def make_optimisers(
    model: nn.Module, extra: nn.Module, muon_lr: float, adamw_lr: float
) -> list[torch.optim.Optimizer]:
    """Both optimisers; every group carries its base rate and whether it belongs to the vision tower."""
    matrices: dict[bool, list[nn.Parameter]] = {False: [], True: []}
    others: dict[bool, list[nn.Parameter]] = {False: list(extra.parameters()), True: []}
    for name, parameter in model.named_parameters():
        tower = "vision_tower" in name
        is_matrix = (
            parameter.ndim in (2, 4) and "embed_tokens" not in name and "position_embedding" not in name
        )
        (matrices if is_matrix else others)[tower].append(parameter)

    def groups(members: dict[bool, list[nn.Parameter]], rate: float) -> list[dict]:
        return [{"params": members[tower], "base_lr": rate, "tower": tower} for tower in (False, True)]

    return [
        BatchedMuon(groups(matrices, muon_lr), lr=muon_lr),
        torch.optim.AdamW(groups(others, adamw_lr), lr=adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]
