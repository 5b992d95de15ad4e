"""Check that a reward model gives the same scores after export and reload.

The scores that the trained model in memory gives to the held-out pairs are stored while a recipe
runs. Recipes return accuracies only, so the function that ends their training is wrapped.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rewards.data.pair import Pair
from rewards.types import Comparison

__all__ = ["BEFORE", "listening", "reloaded_scores", "scores_before"]

BEFORE = "scores_before_export.npy"
# recipe -> module of the function `fit` whose result holds the scores
_TRAINED_BY = {
    "bradley_terry": "bradley_terry",
    "hh": "bradley_terry",
    "pairwise": "pairwise",
    "grm": "grm",
}


@contextmanager
def listening(recipe: str, folder: Path) -> Iterator[None]:
    """Write the (N, 2) held-out scores of `recipe`, which the block trains, to `folder`/BEFORE.

    Columns are chosen and rejected; those of a judge are the probability that the chosen side
    wins, shown first and shown second.
    """
    if recipe == "armorm":
        module = importlib.import_module("rewards.training.armorm")
        with _replaced(module, "_judged", _armorm_listener(module._judged, folder)):
            yield
        return
    module = importlib.import_module(f"rewards.training.{_TRAINED_BY[recipe]}")
    with _replaced(module, "fit", _fit_listener(module.fit, folder)):
        yield


def scores_before(folder: Path) -> np.ndarray:
    """Return the (N, 2) scores that `listening` wrote."""
    return np.load(folder / BEFORE)


def reloaded_scores(recipe: str, model: Path, pairs: Sequence[Pair]) -> np.ndarray:
    """Return the exported model's (N, 2) scores, with the columns of `listening`.

    Raises `InputError` where the model's family cannot be found from its files.
    """
    from rewards import load_judge, load_reward

    if recipe == "pairwise":
        comparisons = [Comparison(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
        verdicts = load_judge(model).verdicts(comparisons)
        # the gap is the difference of the probability between the two orders
        half_N = verdicts.gap_N / 2
        return np.stack([verdicts.probability_N + half_N, verdicts.probability_N - half_N], 1)
    reward = load_reward(model)
    sides = [reward.score([p.conversation(s) for p in pairs]) for s in ("chosen", "rejected")]
    return np.stack(sides, axis=1)


def _fit_listener(fit: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    def listener(*arguments: Any, **settings: Any) -> Any:
        fitted = fit(*arguments, **settings)
        values = fitted.values
        if "margins" in values:
            _write(folder, values["margins"].sigmoid().numpy())
        elif "chosen" in values:  # absent in the fine-tuning before hh, which has no pairs
            _write(folder, np.stack([values[s].numpy() for s in ("chosen", "rejected")], axis=1))
        return fitted

    return listener


def _armorm_listener(judged: Callable[..., Any], folder: Path) -> Callable[..., Any]:
    def listener(heads: Any, sides_S2H: np.ndarray, *arguments: Any) -> Any:
        _write(folder, _armorm_scores(heads, sides_S2H).reshape(-1, 2))
        return judged(heads, sides_S2H, *arguments)

    return listener


def _armorm_scores(heads: Any, sides_S2H: np.ndarray) -> np.ndarray:
    """Return the scores Σ_k G_k(q)·(W e·M)_k, (S,), from states q at the end of the prompt and e
    at the end of the response."""
    import torch

    with torch.inference_mode():
        weights_SK = heads.gate(torch.from_numpy(np.array(sides_S2H[:, 0]))).numpy()
    rewards_SK = sides_S2H[:, 1] @ heads.regression_KH.T @ heads.transform_KK
    return (weights_SK * rewards_SK).sum(axis=1)


def _write(folder: Path, scores_N2: np.ndarray) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / BEFORE, scores_N2.astype(np.float64))


@contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    own = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, own)
