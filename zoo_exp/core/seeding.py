"""Random numbers that depend on the sample alone, not on batches, ranks or restarts."""

import hashlib

import torch


def generator_for(seed: int, sample_id: str, tile: int = 0) -> torch.Generator:
    """A CPU generator that is the same for (seed, sample, tile) in every process and on every machine."""
    digest = hashlib.sha256(f"{seed}\x1f{sample_id}\x1f{tile}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
