"""Every random number descends from the run's seed through named steps, never from the clock."""

from __future__ import annotations

import hashlib

# child i of a prompt samples with seed + i, so a seed leaves room above itself
_BITS = 62


def derive_seed(*parts: int | str) -> int:
    """A 62-bit seed from a path of names and numbers, the same on every machine.

    >>> derive_seed(0, "rollout", 3) == derive_seed(0, "rollout", 3)
    True
    """
    text = "\x1f".join(f"{type(part).__name__}:{part}" for part in parts)
    digest = hashlib.blake2b(text.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> (64 - _BITS)
