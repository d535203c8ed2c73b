"""Bounds of the number of pixels that a processor resizes images to."""

from typing import Any

from zoo_exp.errors import InvalidValueError


def bound_pixels(processor: Any, name: str, smallest: int | None, largest: int | None) -> None:
    """Set the number of pixels that images are resized to, where it is given.

    Args:
        processor: of the checkpoint.
        name: of the model, for the error.
        smallest: pixels of the smallest image; None leaves the processor's own.
        largest: pixels of the largest image.

    Raises:
        InvalidValueError: a processor without such bounds, or bounds the wrong way round.
    """
    if smallest is None and largest is None:
        return
    images = processor.image_processor
    size = dict(getattr(images, "size", None) or {})
    if not {"shortest_edge", "longest_edge"} <= set(size):
        raise InvalidValueError(
            f"model '{name}': min_pixels and max_pixels are for processors that keep an image's shape (Qwen2.5-VL); "
            "leave them out"
        )
    size["shortest_edge"] = size["shortest_edge"] if smallest is None else smallest
    size["longest_edge"] = size["longest_edge"] if largest is None else largest
    if size["shortest_edge"] > size["longest_edge"]:
        raise InvalidValueError(
            f"model '{name}': min_pixels {size['shortest_edge']} is above max_pixels {size['longest_edge']}"
        )
    images.size = type(images.size)(**size) if not isinstance(images.size, dict) else size
