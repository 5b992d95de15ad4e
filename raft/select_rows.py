"""From stored rollouts to the rows that the policy is trained on."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from raft.selection import mask_unselectable, select
from rollout.storage.files import write_rows
from rollout.types import InputError

__all__ = ["choose", "selectable_scores", "trained_samples"]

Rows = Callable[[], Iterable[dict[str, Any]]]  # opens the rollouts anew: they may not fit memory
_PAIRS = "best_and_worst"


def choose(
    rows: Rows,
    out: Path,
    strategy: str,
    arguments: dict[str, Any],
    filters: dict[str, Any],
) -> dict[str, float | int]:
    """Write the selected samples of `rows()` to `out`, whole or not at all; return what was kept.

    Filters make samples unselectable before the strategy looks. `best_and_worst` trains on the
    best and writes the worst beside it as `rejected`: a preference pair.

    Raises:
        InputError: nothing could be selected.
    """
    scores_PK, refused = _selectable(rows, filters)
    chosen_M2 = select(strategy, scores_PK, **arguments)
    if len(chosen_M2) == 0:
        counts = ", ".join(f"{key} {count}" for key, count in refused.items() if count) or "none"
        raise InputError(
            "select",
            f"no sample of {scores_PK.size} can be selected (unselectable: {counts})",
            "loosen the filters, lower the threshold, or look at the scores",
        )
    by_prompt: dict[int, list[int]] = defaultdict(list)
    for prompt, sample in chosen_M2.tolist():
        by_prompt[prompt].append(sample)
    trained_M2 = trained_samples(strategy, chosen_M2)
    kept = write_rows(out, _selected(rows, by_prompt, strategy == _PAIRS))
    return {
        "select/reward_mean": float(np.mean(scores_PK[tuple(trained_M2.T)])),
        "select/kept": kept,
        "select/prompts": len(by_prompt),
        **{f"select/refused_{key}": int(count) for key, count in refused.items()},
    }


def selectable_scores(
    row: dict[str, Any], filters: dict[str, Any]
) -> tuple[NDArray[np.float64], dict[str, int]]:
    """A row's scores (K,), NaN for what may not be selected, and why, counted."""
    scores_1K = np.array([[np.nan if s is None else s for s in row["scores"]]], dtype=float)
    truncated_1K = [[reason == "length" for reason in row["finish_reasons"]]]
    scores_1K, counts = mask_unselectable(
        scores_1K, [row["responses"]], truncated_PK=truncated_1K, **filters
    )
    return scores_1K[0], counts


def trained_samples(strategy: str, chosen_M2: NDArray[np.int64]) -> NDArray[np.int64]:
    """(M', 2): of the rows that `select` gives, those that the policy learns to say."""
    return chosen_M2[::2] if strategy == _PAIRS else chosen_M2


def _selectable(rows: Rows, filters: dict[str, Any]) -> tuple[np.ndarray, dict[str, int]]:
    """Scores (P, K) with NaN for what may not be selected, and why, counted; row by row."""
    masked: list[np.ndarray] = []
    total: dict[str, int] = defaultdict(int)
    for row in rows():
        scores_K, counts = selectable_scores(row, filters)
        masked.append(scores_K)
        for key, count in counts.items():
            total[key] += count
    return np.array(masked), dict(total)


def _selected(rows: Rows, by_prompt: dict[int, list[int]], pairs: bool) -> Iterator[dict[str, Any]]:
    for number, row in enumerate(rows()):
        samples = by_prompt.get(number, [])
        if pairs and samples:
            best, worst = samples
            rejected = {"response": row["responses"][worst], "score": row["scores"][worst]}
            yield {**_row(row, best), "rejected": rejected}
            continue
        for sample in samples:
            yield _row(row, sample)


def _row(row: dict[str, Any], sample: int) -> dict[str, Any]:
    return {
        "id": row["id"],
        "sample": sample,
        "prompt": row["prompt"],
        "response": row["responses"][sample],
        "score": row["scores"][sample],
        "finish_reason": row["finish_reasons"][sample],
        "policy_version": row["policy_version"],
        "prompt_token_ids": row["prompt_token_ids"],
        "token_ids": row["token_ids"][sample],
    }
