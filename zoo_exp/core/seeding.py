"""Random generators seeded by sample, independent of batches, ranks and restarts."""

import hashlib

import torch


def generator_for(seed: int, sample_id: str, tile: int = 0) -> torch.Generator:
    """Create a CPU generator that is the same for (seed, sample, tile) in every process and on every machine."""
    digest = hashlib.sha256(f"{seed}\x1f{sample_id}\x1f{tile}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "little", signed=True))
