"""Sampling parameters of vLLM for greedy decoding, from a model's generation settings and a caller's options."""

from collections.abc import Mapping
from typing import Any

from zoo_exp.errors import InvalidValueError
from zoo_exp.models.generators import end_ids

NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "do_sample": (False, None),
    "num_beams": (1, None),
    "num_return_sequences": (1, None),
    "no_repeat_ngram_size": (0, None),
    "encoder_repetition_penalty": (1.0, None),
    "encoder_no_repeat_ngram_size": (0, None),
    "min_length": (0, None),
    "bad_words_ids": (None,),
    "sequence_bias": (None,),
    "suppress_tokens": (None, []),
    "begin_suppress_tokens": (None, []),
    "forced_bos_token_id": (None,),
    "forced_eos_token_id": (None,),
    "exponential_decay_length_penalty": (None,),
    "guidance_scale": (1.0, None),
    "penalty_alpha": (0.0, None),
    "watermarking_config": (None,),
    "prompt_lookup_num_tokens": (None,),
    "dola_layers": (None,),
}
"""Settings of `generate` that change greedy responses -> the values that do nothing."""
SAMPLING = (
    "temperature",
    "top_k",
    "top_p",
    "min_p",
    "typical_p",
    "epsilon_cutoff",
    "eta_cutoff",
    "use_cache",
)
"""Options that greedy decoding does not read."""
TAKEN = ("max_new_tokens", "min_new_tokens", "repetition_penalty", "eos_token_id", "pad_token_id")


def sampling_of(model: Any, options: Mapping[str, Any], knows_prompt: bool) -> dict[str, Any]:
    """Arguments of vLLM's `SamplingParams` that decode as `generate(**options)` does.

    Args:
        model: the Hugging Face model; its generation settings hold where `options` gives none.
        options: arguments of `generate`.
        knows_prompt: whether vLLM gets the token ids of prompts, which a repetition penalty counts.

    Raises:
        InvalidValueError: a setting that vLLM does not have.
    """
    unknown = sorted(set(options) - set(NEUTRAL) - set(SAMPLING) - set(TAKEN))
    if unknown:
        raise InvalidValueError(f"engine=vllm does not have the option {unknown[0]}: use engine=hf")
    own = model.generation_config

    def value(name: str) -> Any:
        return options[name] if options.get(name) is not None else getattr(own, name, None)

    for name, neutral in NEUTRAL.items():
        # A checkpoint may ask for sampling; the caller decides, and `generate` samples only where it is told to.
        given = options.get(name) if name == "do_sample" else value(name)
        if given not in neutral:
            what = "beam search" if name == "num_beams" else f"{name}={given}"
            raise InvalidValueError(f"engine=vllm does not do {what} as transformers does: use engine=hf")
    length = options.get("max_new_tokens")
    if not isinstance(length, int) or length < 1:
        raise InvalidValueError(f"max_new_tokens {length}: give a number of tokens from 1")
    penalty = float(value("repetition_penalty") or 1.0)
    if penalty != 1.0 and not knows_prompt:
        raise InvalidValueError(
            f"repetition_penalty={penalty} of the checkpoint counts the prompt's tokens, which prompt_embeds do not "
            "hold: type engine.via=image_embeds (without engine.url), or engine=hf"
        )
    return {
        "temperature": 0.0,
        "max_tokens": length,
        "min_tokens": int(value("min_new_tokens") or 0),
        "repetition_penalty": penalty,
        "stop_token_ids": end_ids(model),
    }
