"""How each model of world 2 is trained: stages, sizes, rates."""

from dataclasses import dataclass, fields, replace

from zoo_exp.errors import InvalidValueError, UnknownNameError
from zoo_exp.registry import meanings_of

WORLD = 2


@dataclass(frozen=True)
class Plan:
    """Everything that decides the weights. Steps count optimiser steps; images are per step.

    Attributes:
        model: embedded, embedded_next or embedded_qwen.
        seed: of new weights, scenes, questions and thinning.
        dense_steps: steps of the vision encoder alone, on dense labels.
        joint_steps: steps on questions, behind those.
        deepen_at: joint step at which every decoder layer is followed by a copy that starts as the identity
            (0: before the first; -1: never).
        dense_images: images of a dense step.
        images: images of a joint step.
        text_length: tokens of questions about an image.
        questions: questions tried about an image; those that fit into its tokens are asked.
        easy_share: share of the tried questions that stay although their topic is not among the hard ones (counting,
            and where things are).
        dense_muon_lr: the vision encoder's learning rate of Muon in the dense stage.
        muon_lr: learning rate of Muon, for matrices.
        adamw_lr: learning rate of AdamW, for the rest.
        heads_first: dense steps at the start in which only the heads learn, behind an encoder that can see already.
        encoder_pace: the vision encoder's rates in the joint stage, relative to the others' (0: it stands still).
        warmup: steps over which the rates rise at the start of a stage.
        decay_share: last part of a stage over which the rates fall to zero.
        dense_weight: weight of the dense loss in the joint stage, where the encoder learns.
        align_weight: weight of the word alignment of projected features at the start of the joint stage; zero
            from its middle on.
        side_weight: weight of the places of visual tokens inside the decoder, likewise.
        front_layers: new decoder layers in front of those of the model to start from; they start as the identity.
        front_steps: steps in which these layers alone learn places, before all others.
        probe_layer: decoder layer behind which the states of visual tokens must tell their places.
        drop_share: share of the batches that keep a random few of the visual tokens.
        drop_min: fewest tokens that stay then.
        few_power: power of the uniform draw that says how many stay: 1 draws evenly, 3 draws few of them often.
        uneven_share: share of those batches whose tokens are no even draw: they lean towards a random direction of
            their features, or are spread out (see `subsets`).
        blind_share: share of those batches that keep no visual token at all, for a model that would answer without
            sense then; 0 draws nothing for it.
        original_share: share of those batches whose tokens keep their original positions.
        max_shift: largest random gap between prefix and question.
        pool: joint scenes that are asked about again and again, with new questions each time; a vision encoder that
            stands still sees each of them once. 0: every scene is new.
        average: share of the averaged weights that a step keeps; what is saved is that average.
    """

    model: str
    seed: int = 0
    dense_steps: int = 600
    joint_steps: int = 3000
    deepen_at: int = -1
    dense_images: int = 24
    images: int = 16
    text_length: int = 256
    questions: int = 45
    easy_share: float = 1.0
    dense_muon_lr: float = 2e-3
    muon_lr: float = 4e-3
    adamw_lr: float = 1.5e-3
    heads_first: int = 60
    encoder_pace: float = 0.0
    warmup: int = 50
    decay_share: float = 0.5
    dense_weight: float = 0.3
    align_weight: float = 0.0
    side_weight: float = 0.0
    front_layers: int = 0
    front_steps: int = 0
    probe_layer: int = 2
    drop_share: float = 0.5
    drop_min: int = 4
    few_power: float = 1.0
    uneven_share: float = 0.0
    blind_share: float = 0.0
    original_share: float = 0.5
    max_shift: int = 32
    pool: int = 2400
    average: float = 0.99

    def __post_init__(self) -> None:
        """Refuse numbers that cannot be."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name not in ("model", "deepen_at") and value < 0:
                raise InvalidValueError(f"{field.name} is {value}: it cannot be negative")
        shares = (
            "drop_share",
            "uneven_share",
            "blind_share",
            "easy_share",
            "original_share",
            "decay_share",
            "average",
        )
        for name in shares:
            if getattr(self, name) > 1:
                raise InvalidValueError(f"{name} is {getattr(self, name)}: give a share from 0 to 1")

    @property
    def steps(self) -> int:
        """Steps of all stages."""
        return self.dense_steps + self.joint_steps

    def stage(self, step: int) -> str:
        """Which stage a step belongs to."""
        return "dense" if step < self.dense_steps else "joint"

    def slot(self, step: int) -> int:
        """Number of a joint step's scenes: the same again after the pool is through."""
        period = self.pool // max(1, self.images)
        return step % period if period else step

    def deep(self, step: int) -> bool:
        """Whether the decoder has its full depth at a step."""
        return self.deepen_at >= 0 and step >= self.dense_steps + self.deepen_at

    def pace(self, step: int) -> float:
        """Learning rate relative to the base: warm-up and decay in both stages."""
        dense = self.stage(step) == "dense"
        start, stop = (0, self.dense_steps) if dense else (self.dense_steps, self.steps)
        decay_steps = max(1, round((stop - start) * self.decay_share))
        return min(1.0, (step - start + 1) / max(1, self.warmup)) * min(1.0, (stop - step) / decay_steps)

    def encoder_share(self, step: int) -> float:
        """The vision encoder's rates relative to the others'."""
        if self.stage(step) == "joint":
            return self.encoder_pace
        return self.dense_muon_lr / self.muon_lr if step >= self.heads_first else 0.0

    def auxiliary(self, step: int) -> float:
        """Weight of the losses on the projector's output: falls to zero at the middle of the joint stage."""
        return max(0.0, 1 - 2 * (step - self.dense_steps) / max(1, self.joint_steps))


PLANS: dict[str, Plan] = {
    "embedded": Plan("embedded", dense_steps=400, joint_steps=1500, deepen_at=1150),
    "embedded_next": Plan(
        "embedded_next",
        seed=2,
        dense_steps=0,
        joint_steps=900,
        images=8,
        text_length=384,
        questions=70,
        muon_lr=3e-3,
        decay_share=0.9,
        side_weight=0.5,
        front_layers=1,
        front_steps=400,
        probe_layer=1,
        drop_share=0.25,
        drop_min=10,
        max_shift=64,
        pool=800,
    ),
    "embedded_qwen": Plan(
        "embedded_qwen",
        dense_steps=1000,
        joint_steps=3500,
        dense_images=16,
        heads_first=0,
        dense_muon_lr=5e-3,
        align_weight=0.5,
        side_weight=0.5,
        probe_layer=1,
    ),
}


def plan_lines() -> str:
    """Numbers of a training plan, their meanings, and their values in the plans, a line each for a help text."""
    meanings, lines = meanings_of(Plan), []
    for field in fields(Plan):
        if field.name == "model":
            continue
        values = [getattr(plan, field.name) for plan in PLANS.values()]
        shown = str(values[0]) if len(set(values)) == 1 else ", ".join(map(str, values))
        lines.append(f"  {field.name}={shown}  {meanings.get(field.name, '')}")
    return "\n".join(lines)


def plan_for(model: str, **changes: int | float) -> Plan:
    """The plan of a model, with changed numbers.

    Raises:
        UnknownNameError: no such model or number.
    """
    if model not in PLANS:
        raise UnknownNameError("embedded model", model, PLANS)
    known = [field.name for field in fields(Plan) if field.name != "model"]
    for name in changes:
        if name not in known:
            raise UnknownNameError("number of the training plan", name, known)
    return replace(PLANS[model], **changes)
