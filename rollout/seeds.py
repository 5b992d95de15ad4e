"""Seeds and random numbers, all derived from the run's seed and names, never from the clock."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# sample k of a prompt is drawn with seed + k, which must stay below 2**63
_BITS = 62
# constants of SplitMix64, as signed numbers of 64 bits
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def derive_seed(*parts: int | str) -> int:
    """Derive a 62-bit seed from a path of names and numbers, the same on every machine.

    >>> derive_seed(0, "rollout", 3) == derive_seed(0, "rollout", 3)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _BITS)


def hashed_uniform(key_B: torch.Tensor, count: int) -> torch.Tensor:
    """Return (B, count) uniform numbers between 0 and 1 from (B,) integer keys.

    Each key is the starting state of a SplitMix64 generator (Steele et al. 2014).
    """
    import torch

    hash_BV = key_B[:, None] + _GOLDEN * torch.arange(1, count + 1, device=key_B.device)
    for shift, factor in _ROUNDS:
        # `>>` of a signed number copies the sign bit, which the mask removes
        hash_BV ^= (hash_BV >> shift) & (2 ** (64 - shift) - 1)
        hash_BV *= factor
    hash_BV ^= (hash_BV >> 31) & (2**33 - 1)
    # the highest of the 2^53 midpoints rounds to 1, whose Gumbel noise is infinite
    below_1 = 1 - 2.0**-53
    return ((hash_BV >> 11) & (2**53 - 1)).double().add_(0.5).mul_(2.0**-53).clamp_(max=below_1)


def mixed(value: int) -> int:
    """Return the first output of SplitMix64 for the state `value`, from 0 to 2**64 - 1."""
    value = (value + _GOLDEN) % 2**64
    for shift, factor in _ROUNDS:
        value = (value ^ (value >> shift)) * factor % 2**64
    return value ^ (value >> 31)
