"""Every random number descends from the run's seed through named steps, never from the clock."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

# child i of a prompt samples with seed + i, so a seed leaves room above itself
_BITS = 62
# of SplitMix64, as signed numbers of 64 bits
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_ROUNDS = ((30, 0xBF58476D1CE4E5B9 - 2**64), (27, 0x94D049BB133111EB - 2**64))


def derive_seed(*parts: int | str) -> int:
    """A 62-bit seed from a path of names and numbers, the same on every machine.

    >>> derive_seed(0, "rollout", 3) == derive_seed(0, "rollout", 3)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _BITS)


def hashed_uniform(key_B: torch.Tensor, count: int) -> torch.Tensor:
    """(B, count) numbers above 0 and below 1 from (B,) keys: SplitMix64 (Steele et al. 2014), whose
    state a key begins."""
    import torch

    hash_BV = key_B[:, None] + _GOLDEN * torch.arange(1, count + 1, device=key_B.device)
    for shift, factor in _ROUNDS:
        # `>>` copies the sign
        hash_BV ^= (hash_BV >> shift) & (2 ** (64 - shift) - 1)
        hash_BV *= factor
    hash_BV ^= (hash_BV >> 31) & (2**33 - 1)
    return ((hash_BV >> 11) & (2**53 - 1)).double().add_(0.5).mul_(2.0**-53)


def mixed(value: int) -> int:
    """SplitMix64's hash of one number."""
    value = (value + _GOLDEN) % 2**64
    for shift, factor in _ROUNDS:
        value = (value ^ (value >> shift)) * factor % 2**64
    return value ^ (value >> 31)
