"""The training loop of world 2's models: seeded, resumable with the same result, one checkpoint file at a time.

A step is a function of its number, the plan and the weights: a run that is stopped anywhere and resumed from its
last checkpoint ends at the same bits (on the same kind of machine and number of threads).
"""

import copy
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from zoo_exp.embedded.optimisers import BatchedMuon
from zoo_exp.embedded.world2.asking import FAMILIES_2
from zoo_exp.embedded.world2.builders import deepen
from zoo_exp.embedded.world2.learners import Learner
from zoo_exp.embedded.world2.plan import WORLD, Plan
from zoo_exp.errors import InvalidValueError

CHECKPOINT, PREVIOUS = "checkpoint.safetensors", "checkpoint.previous.safetensors"
LOG = "log.jsonl"
EVERY = 50  # steps between two lines of the log and two checkpoints
CLIP = 1.0
TIED = "lm_head.weight"


def make_optimisers_2(learner: Learner) -> list[torch.optim.Optimizer]:
    """Muon for matrices, AdamW for the rest; every group says whether it belongs to the vision encoder."""
    plan = learner.plan
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in learner.named_parameters():
        encoder = any(part in name for part in learner.encoder_names)
        table = "embed_tokens" in name or "position_embedding" in name or "newline" in name
        matrix = parameter.ndim in (2, 4, 5) and not table and not name.startswith("heads.")
        groups.setdefault((matrix, encoder), []).append(parameter)

    def of(matrix: bool, rate: float) -> list[dict[str, Any]]:
        return [
            {"params": groups[matrix, encoder], "base_lr": rate, "encoder": encoder}
            for encoder in (False, True)
            if (matrix, encoder) in groups
        ]

    return [
        BatchedMuon(of(True, plan.muon_lr), lr=plan.muon_lr),
        torch.optim.AdamW(of(False, plan.adamw_lr), lr=plan.adamw_lr, betas=(0.9, 0.98), weight_decay=0.0),
    ]


class Training:
    """A learner with its optimisers at some step, and the moving average of its weights, which is what is saved.

    The average lets a run end at any step.

    Args:
        learner: what learns.
        out: folder for checkpoint and log.
        before_deepening: called with the learner before its decoder doubles, for a copy that other models start from.

    Raises:
        InvalidValueError: the folder holds a run of another plan, model or world, or only torn checkpoints.
    """

    def __init__(
        self, learner: Learner, out: Path, before_deepening: Callable[[Learner], None] = lambda learner: None
    ) -> None:
        self.learner, self.plan, self.out, self.step = learner, learner.plan, out, 0
        self.optimisers = make_optimisers_2(learner)
        self._deep, self._before_deepening = False, before_deepening
        self.average: Any = None  # the averaged model, in the joint stage
        out.mkdir(parents=True, exist_ok=True)
        found = read_checkpoint(out)
        if found is None:
            self._deepen_if_due()
            return
        tensors, header = found
        check_header(out, header, self.plan)
        self.step = int(header["step"])
        if any(name.startswith("average.") for name in tensors):
            self.average = copy.deepcopy(learner.model).requires_grad_(False)
        if self.plan.deep(self.step - 1):  # the checkpoint of the step itself is from before the deepening
            deepen(learner.model)
            if self.average is not None:
                deepen(self.average)
            self._deep = True
            self.optimisers = make_optimisers_2(learner)
        self._load(tensors)

    def run(self, advance: Callable[[int, dict[str, float]], None] | None = None) -> None:
        """Train to the plan's last step.

        Args:
            advance: called after each step with its number and the means since the last line of the log.
        """
        rows: list[dict[str, Tensor]] = []
        started = time.time()
        while self.step < self.plan.steps:
            self._deepen_if_due()
            losses = self.learner.losses(self.step)
            self._update(losses["loss"])
            self._move_average()
            rows.append({name: value.detach() for name, value in losses.items()})
            self.step += 1
            if self.step % EVERY == 0 or self.step == self.plan.steps:
                line = {
                    "step": self.step,
                    "seconds": round((time.time() - started) / len(rows), 3),
                    **means(rows),
                }
                self.save()
                with (self.out / LOG).open("a") as file:
                    file.write(json.dumps(line) + "\n")
                rows, started = [], time.time()
                if advance is not None:
                    advance(self.step, line)
            elif advance is not None:
                advance(self.step, {})

    def _update(self, loss: Tensor) -> None:
        plan, step = self.plan, self.step
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.learner.parameters() if p.grad is not None], CLIP)
        pace = plan.pace(step)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                rate = group["base_lr"] * pace
                if group["encoder"]:
                    rate *= plan.encoder_share(step)
                group["lr"] = rate
            optimiser.step()

    @torch.no_grad()
    def _move_average(self) -> None:
        """Average the weights over about the last 1 / (1 - average) steps; shorter at the start."""
        plan, done = self.plan, self.step - self.plan.dense_steps
        if done < 0:
            return
        if self.average is None:
            self.average = copy.deepcopy(self.learner.model).requires_grad_(False)
        keep = min(plan.average, (1 + done) / (10 + done))
        for mean, weight in zip(self.average.parameters(), self.learner.model.parameters(), strict=True):
            mean.lerp_(weight, 1 - keep)

    def averaged(self) -> Learner:
        """The learner with the averaged weights: what is saved and measured."""
        learner = copy.copy(self.learner)
        learner._modules = {**self.learner._modules}
        if self.average is not None:
            learner.model = self.average
        return learner

    def _deepen_if_due(self) -> None:
        """Double the decoder at the plan's step; optimiser states of the layers that were there are kept."""
        if self._deep or not self.plan.deep(self.step):
            return
        if self.step > 0:
            self._before_deepening(self.averaged())
        deepen(self.learner.model)
        if self.average is not None:
            deepen(self.average)
        old = {p: state for optimiser in self.optimisers for p, state in optimiser.state.items()}
        self.optimisers = make_optimisers_2(self.learner)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                for parameter in group["params"]:
                    if parameter in old:
                        optimiser.state[parameter] = old[parameter]
        self._deep = True

    def save(self) -> None:
        """Write the checkpoint; the one before stays until the new one is whole."""
        from safetensors.torch import save_file

        tensors = {f"weights.{name}": value for name, value in _untied(self.learner).items()}
        if self.average is not None:
            tensors |= {f"average.{name}": value for name, value in _untied(self.average).items()}
        for parameter, name in self._names().items():
            for optimiser in self.optimisers:
                for key, value in optimiser.state.get(parameter, {}).items():
                    tensors[f"optimiser.{key}.{name}"] = value.detach().clone()
        header = {"step": str(self.step), "world": str(WORLD), "plan": json.dumps(asdict(self.plan))}
        path, fresh = self.out / CHECKPOINT, self.out / f"{CHECKPOINT}.part"
        save_file(tensors, fresh, metadata=header)
        with fresh.open("rb") as file:
            os.fsync(file.fileno())
        if path.exists():
            os.replace(path, self.out / PREVIOUS)
        os.replace(fresh, path)

    def _names(self) -> dict[nn.Parameter, str]:
        return {parameter: name for name, parameter in self.learner.named_parameters()}

    def _load(self, tensors: dict[str, Tensor]) -> None:
        for prefix, module in (("weights.", self.learner), ("average.", self.average)):
            if module is None:
                continue
            part = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
            missing, unexpected = module.load_state_dict(part, strict=False)
            wrong = [name for name in missing if not name.endswith(TIED)] + unexpected
            if wrong:
                raise InvalidValueError(f"{self.out / CHECKPOINT} does not fit the model (tensor {wrong[0]})")
        for parameter, name in self._names().items():
            for optimiser in self.optimisers:
                if not any(parameter is p for group in optimiser.param_groups for p in group["params"]):
                    continue
                for key in ("average", "exp_avg", "exp_avg_sq", "step"):
                    value = tensors.get(f"optimiser.{key}.{name}")
                    if value is not None:
                        optimiser.state[parameter][key] = value.to(
                            value.device if key == "step" else parameter.device
                        )


def _untied(module: nn.Module) -> dict[str, Tensor]:
    """A module's tensors without the output layer, which is tied to the embeddings."""
    return {
        name: value.detach().contiguous()
        for name, value in module.state_dict().items()
        if not name.endswith(TIED)
    }


def means(rows: list[dict[str, Tensor]]) -> dict[str, float]:
    """Means of the losses, and accuracy by family of whole and of thinned batches."""
    line: dict[str, float] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        if name in ("right", "asked", "thinned"):
            continue
        line[name] = float(torch.stack([row[name] for row in rows if name in row]).mean())
    for label, thinned in (("", 0.0), ("thin_", 1.0)):
        chosen = [row for row in rows if "right" in row and float(row["thinned"]) == thinned]
        if not chosen:
            continue
        right = torch.stack([row["right"] for row in chosen]).sum(0)
        asked = torch.stack([row["asked"] for row in chosen]).sum(0).clamp(min=1)
        accuracy = (right / asked).tolist()
        line[f"{label}average"] = sum(accuracy) / len(accuracy)
        if not label:
            line |= dict(zip(FAMILIES_2, accuracy, strict=True))
    return {name: round(value, 4) for name, value in line.items()}


def read_checkpoint(out: Path) -> tuple[dict[str, Tensor], dict[str, str]] | None:
    """The newest whole checkpoint of a folder with its header, or None where there is none.

    Raises:
        InvalidValueError: there are checkpoint files, and all of them are torn.
    """
    from safetensors import SafetensorError, safe_open

    torn = []
    for name in (CHECKPOINT, PREVIOUS):
        path = out / name
        if not path.is_file():
            continue
        try:
            with safe_open(path, "pt") as file:
                return {key: file.get_tensor(key) for key in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
        except (SafetensorError, OSError):
            torn.append(name)
    if torn:
        raise InvalidValueError(
            f"{out}: {' and '.join(torn)} cannot be read (torn?): delete them to train from the start, "
            "or give another out="
        )
    return None


def check_header(out: Path, header: dict[str, str], plan: Plan) -> None:
    """Refuse a checkpoint of another world or plan; lengths may still change where no step done is touched.

    Raises:
        InvalidValueError: what differs.
    """
    if header.get("world") != str(WORLD):
        raise InvalidValueError(
            f"{out} holds a checkpoint of world {header.get('world', 'unknown')}, this training is on world {WORLD}: "
            "give another out="
        )
    try:
        # Numbers that plans did not have yet stand at their defaults, which do what was done before.
        found, step = asdict(Plan(plan.model)) | json.loads(header["plan"]), int(header["step"])
    except (KeyError, TypeError, ValueError) as error:
        raise InvalidValueError(f"{out}: the checkpoint's header has no plan or step: {error}") from error
    wanted = asdict(plan)
    changed = {key: (found.get(key), value) for key, value in wanted.items() if found.get(key) != value}
    if set(changed) <= {"dense_steps", "joint_steps", "decay_share", "deepen_at"} and _same_so_far(
        found, plan, step
    ):
        return
    listing = ", ".join(f"{key}: {old} there, {new} asked for" for key, (old, new) in changed.items())
    if changed:
        raise InvalidValueError(f"{out} holds a run of another plan ({listing}): give another out=")


def _same_so_far(found: dict[str, Any], plan: Plan, step: int) -> bool:
    """Whether two plans that differ in their ends agree on every step that was done."""
    try:
        old = Plan(**found)
    except TypeError:
        return False
    return all(_what_counts(old, s) == _what_counts(plan, s) for s in range(step))


def _what_counts(plan: Plan, step: int) -> tuple[Any, ...]:
    """What a plan's lengths decide about one step."""
    auxiliary = (
        0.0 if plan.stage(step) == "dense" else plan.auxiliary(step) * (plan.align_weight + plan.side_weight)
    )
    return plan.stage(step), plan.pace(step), plan.deep(step), auxiliary
