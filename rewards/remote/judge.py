"""`RemoteJudge`: a pairwise judge behind a URL, in our JSON."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from rewards.finite import check_policy, finite_or_missing
from rewards.remote.address import make_address
from rewards.remote.items import Item, batched, check_positive
from rewards.remote.protocols import RaftComparisons
from rewards.remote.transport import Transport
from rewards.types import Comparison, NonFinite, RewardError

__all__ = ["RemoteJudge"]


class RemoteJudge:
    """Compares pairs of responses by asking a server; settings as `RemoteReward`'s of those names.

    The server's judge averages over both orders, or does not: nothing is swapped here.
    Raises `InputError` for settings that are wrong.
    """

    def __init__(
        self,
        url: str,
        *,
        model: str | None = None,
        token: str | None = None,
        token_env: str | None = None,
        timeout: float = 60.0,
        concurrency: int = 4,
        batch_size: int = 32,
        retries: int = 4,
        backoff: float = 0.5,
        non_finite: NonFinite = "raise",
    ) -> None:
        check_policy(non_finite)
        check_positive(batch_size=batch_size)
        self._protocol = RaftComparisons(model)
        address = make_address(url, self._protocol.route, token=token, token_env=token_env)
        self.url = address.url
        self.model = model
        self.name = model or self.url
        self.batch_size = batch_size
        self.non_finite: NonFinite = non_finite
        self._transport = Transport(
            address, timeout=timeout, concurrency=concurrency, retries=retries, backoff=backoff
        )

    def compare(self, comparisons: Sequence[Comparison]) -> np.ndarray:
        """P(first is better) of N comparisons, float64 (N,), order kept.

        Raises `RewardError` as `RemoteReward.score` does, and for a number outside [0, 1] or a
        missing verdict; with `non_finite="missing"` a missing verdict is NaN.
        """
        items = self._protocol.items(comparisons)
        batches = batched(items, self.batch_size)
        values = self._transport.exchange(batches, self._protocol.encode, self._protocol.decode)
        checked = [self._checked(*pair) for pair in zip(values, items, strict=True)]
        return np.array(checked, dtype=np.float64)

    def describe(self) -> dict[str, Any]:
        """The settings that a verdict depends on, for a run's records; never the token."""
        return {"name": self.name, "kind": "remote-judge", "url": self.url, "model": self.model}

    def _checked(self, value: float | None, item: Item) -> float:
        source = f"judge server {self.url}"
        found = finite_or_missing(
            math.nan if value is None else value,
            source=source,
            where=item.name,
            non_finite=self.non_finite,
        )
        if found is not None and not 0 <= found <= 1:
            raise RewardError(f"{source} gave {found} for {item.name}: it is no probability")
        return math.nan if found is None else found
