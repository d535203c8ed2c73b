"""Random generators seeded by sample, independent of batches, ranks and restarts."""

import hashlib

import torch


def generator_for(seed: int, sample_id: str, tile: int = 0) -> torch.Generator:
    """Create a CPU generator that is the same for equal arguments in every process and on every machine.

    Args:
        seed: of the run.
        sample_id: of the question, with the number of the image where there are several.
        tile: number of the tile or frame.

    >>> int(torch.randint(100, (), generator=generator_for(0, "q1"))) == int(
    ...     torch.randint(100, (), generator=generator_for(0, "q1")))
    True
    """
    digest = hashlib.sha256(f"{seed}\x1f{sample_id}\x1f{tile}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
