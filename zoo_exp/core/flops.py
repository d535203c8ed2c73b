"""FLOPs of matrix products, by formula: 1 multiply-add = 2 FLOPs."""


def linear(rows: int, inputs: int, outputs: int) -> int:
    """FLOPs of `rows` vectors of width `inputs` times a matrix [inputs, outputs].

    >>> linear(2, 3, 5)
    60
    """
    return 2 * rows * inputs * outputs
