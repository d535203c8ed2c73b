"""Watches a run while it answers: what entered the first decoder layer, and how `generate` was called."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from zoo_exp.core.budget import Budget
from zoo_exp.evaluation import module
from zoo_exp.models.answering import EncodedBatch, Generated, generate
from zoo_exp.models.llava_protocol import SYSTEM
from zoo_exp.models.loading import LoadedModel
from zoo_exp.selectors.layer.base import LayerSelector

CHECKS = ("layer 0", "kept", "prompt", "args")
ENDINGS = {"llava": "ASSISTANT:", "llava_next": "ASSISTANT:", "qwen2_5_vl": "<|im_start|>assistant\n"}
"""How the published chat templates open the response."""


@dataclass
class Watched:
    """What was seen.

    Attributes:
        calls: batches that were answered, of all arms.
        violations: check -> one sentence for each violation.
    """

    calls: int = 0
    violations: dict[str, list[str]] = field(default_factory=lambda: {name: [] for name in CHECKS})

    def expect(self, check: str, right: bool, sentence: str) -> None:
        """Note a violation."""
        if not right:
            self.violations[check].append(sentence)


@contextmanager
def watching(*, published_prompts: bool) -> Iterator[Watched]:
    """Check every batch that `PrunedVLM` answers inside the block; the answers are the same as without.

    Args:
        published_prompts: whether prompts must end as the family's published template does.
    """
    seen = Watched()

    def watched(
        loaded: LoadedModel,
        batch: EncodedBatch,
        selector: Any,
        budget: Budget | None,
        names: Sequence[str],
        **options: Any,
    ) -> Generated:
        lengths: list[int] = []
        calls: list[dict[str, Any]] = []
        stock = loaded.model.generate

        def called(**kwargs: Any) -> Any:
            calls.append(kwargs)
            return stock(**kwargs)

        handle = loaded.adapter.layers[0].register_forward_pre_hook(
            lambda layer, args, kwargs: lengths.append(
                (args[0] if args else kwargs["hidden_states"]).shape[1]
            ),
            with_kwargs=True,
        )
        loaded.model.generate = called
        try:
            made = generate(loaded, batch, selector, budget, names, **options)
        finally:
            handle.remove()
            del loaded.model.generate
        seen.calls += 1
        who = f"{selector.name} @{budget} on {names[0]}"
        longest = int(made.prompt.attention_mask.sum(dim=1).max())
        seen.expect("layer 0", lengths[:1] == [longest], f"{who}: {lengths[:1]} tokens, not {longest}")
        _check_kept(seen, who, selector, budget, batch, made)
        greedy = all(call.get("do_sample") is False and call.get("max_new_tokens") for call in calls)
        seen.expect("args", len(calls) == 1 and greedy, f"{who}: {len(calls)} calls, greedy: {greedy}")
        if published_prompts:
            _check_prompt(seen, who, loaded, batch)
        return made

    module.generate = watched  # type: ignore[attr-defined]
    try:
        yield seen
    finally:
        module.generate = generate  # type: ignore[attr-defined]


def _check_kept(
    seen: Watched, who: str, selector: Any, budget: Budget | None, batch: EncodedBatch, made: Generated
) -> None:
    """Each row has the visual tokens that its selections and its budget say."""
    rows = zip(batch.tokens, made.selected.selections, made.prompt.kept_tokens, strict=True)
    for images, selections, kept in rows:
        total = sum(image.count for image in images)
        chosen = sum(len(selection.indices) for selection in selections)
        seen.expect("kept", chosen == kept, f"{who}: {kept} visual tokens, {chosen} selected")
        if isinstance(selector, LayerSelector) or selector.name == "full":
            seen.expect("kept", kept == total, f"{who}: {kept} of {total} tokens entered")
        elif selector.name == "blind":
            seen.expect("kept", kept == 0, f"{who}: {kept} visual tokens entered")
        elif budget is not None and budget.per == "image" and all(image.tile is None for image in images):
            expected = sum(budget.resolve(image.count) for image in images)
            fits = kept == expected or (
                selector.name == "resize" and kept < expected
            )  # rows x columns of a grid
            seen.expect("kept", fits, f"{who}: kept {kept}, the budget is {expected}")
        elif budget is not None:
            expected = sum(selector.plan(image, budget).total for image in images)
            seen.expect("kept", expected <= kept <= total, f"{who}: kept {kept}, the budget is {expected}")


def _check_prompt(seen: Watched, who: str, loaded: LoadedModel, batch: EncodedBatch) -> None:
    """Each prompt ends where the response begins, with a placeholder for each visual token."""
    ids = batch.inputs["input_ids"]
    texts = loaded.processor.batch_decode(ids, skip_special_tokens=False)
    ending = ENDINGS.get(loaded.adapter.family, "")
    for text in texts:
        seen.expect("prompt", text.endswith(ending), f"{who}: the prompt ends with {text[-30:]!r}")
    own = loaded.protocol == "llava"
    for text in texts:
        right = (SYSTEM in text) == own
        seen.expect(
            "prompt", right, f"{who}: protocol {loaded.protocol}, but the prompt starts with {text[:60]!r}"
        )
    marks = int((ids == loaded.adapter.image_token_id).sum())
    visual = sum(image.count for row in batch.tokens for image in row)
    seen.expect("prompt", marks == visual, f"{who}: {marks} placeholders for {visual} visual tokens")
