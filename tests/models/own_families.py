"""The three families with adapters of their own, and image shapes to lay out batches of."""

FAMILIES = ("llava", "llava_next", "qwen2_5_vl")
SHAPES = {
    "llava": ((56, 56), (56, 56)),
    "llava_next": ((100, 60), (56, 150)),
    "qwen2_5_vl": ((56, 84), (84, 56)),
}
"""Two image shapes of each family; LLaVA-1.5 knows one."""


def layouts(family):
    """Batches: one image, two images in one row, and rows of different lengths, one of them without an image."""
    first, second = SHAPES[family]
    return {
        "one": [[first]],
        "two images": [[first, second]],
        "ragged": [[second], [first, second], [], [first]],
    }
