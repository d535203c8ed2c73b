"""FLOPs of a VLM's stages, counted from its configuration: 1 multiply-add = 2 FLOP.

Everything that is a matrix product counts.
A test compares with torch's own counter. Softmax, norms and activations (below 1 %) are left out on both sides.
"""

from typing import Any


def _linear(rows: int, inputs: int, outputs: int) -> int:
    return 2 * rows * inputs * outputs


class CostModel:
    """Costs of a LLaVA-like model: CLIP tower, two-layer projector, Llama-like decoder.

    Args:
        config: the model's `transformers` configuration.
    """

    def __init__(self, config: Any) -> None:
        self.text, self.vision = config.get_text_config(), config.vision_config
        self.feature_layer = getattr(config, "vision_feature_layer", None)

    def decoder(self, queries: int, keys: int) -> int:
        """All decoder layers for `queries` rows that attend to `keys` rows each (causality is not halved)."""
        c = self.text
        heads, kv_heads = c.num_attention_heads, c.num_key_value_heads
        head = getattr(c, "head_dim", None) or c.hidden_size // heads
        attention = _linear(queries, c.hidden_size, (heads + 2 * kv_heads) * head)
        attention += _linear(queries, heads * head, c.hidden_size) + 2 * _linear(queries, heads * head, keys)
        mlp = 3 * _linear(queries, c.hidden_size, c.intermediate_size)
        return c.num_hidden_layers * (attention + mlp)

    def prefill(self, length: int) -> int:
        """The prompt of `length` tokens, and the head for its last one."""
        return self.decoder(length, length) + self.head()

    def decode(self, length: int, new_tokens: int) -> int:
        """The steps after the prefill of `length` tokens; the first new token comes from the prefill itself."""
        return sum(self.decoder(1, length + step) + self.head() for step in range(1, new_tokens))

    def head(self) -> int:
        """Logits of one position."""
        return _linear(1, self.text.hidden_size, self.text.vocab_size)

    def tower(self, n_visual: int) -> int:
        """The vision tower on one image (or tile) of `n_visual` patches and CLS."""
        c = self.vision
        rows, width = n_visual + 1, c.hidden_size
        layer = 4 * _linear(rows, width, width) + 2 * _linear(rows, width, rows)
        layer += 2 * _linear(rows, width, c.intermediate_size)
        patches = _linear(n_visual, 3 * c.patch_size**2, width)
        return patches + c.num_hidden_layers * layer

    def projector(self, n_visual: int) -> int:
        """The two-layer projector."""
        width = self.text.hidden_size
        return _linear(n_visual, self.vision.hidden_size, width) + _linear(n_visual, width, width)

    def answer(self, n_visual: int, length: int, new_tokens: int) -> int:
        """One answer: tower and projector on all visual tokens, prefill of the pruned prompt, decoding.

        The selector is not in it: it has its own column of milliseconds.
        """
        encoded = self.tower(n_visual) + self.projector(n_visual) if n_visual else 0
        return encoded + self.prefill(length) + self.decode(length, new_tokens)
