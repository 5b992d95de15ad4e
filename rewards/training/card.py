"""Write the model card of a trained reward model, with the held-out accuracy that it reports."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import NotRequired, TypedDict

import numpy as np

from rewards.data.pair import Pair
from rewards.evaluation.accuracy import accuracy as pair_accuracy

__all__ = [
    "TrainedMetrics",
    "accuracy_in_words",
    "held_out_accuracy",
    "model_card",
]

# the metrics of a recipe that a card reads; `result.json` holds all of them
TrainedMetrics = TypedDict(
    "TrainedMetrics",
    {
        "eval/accuracy": float | None,
        "eval/accuracy_low": float | None,
        "eval/accuracy_high": float | None,
        "pairs/train": int,
        "pairs/held_out": int,
        "pairs/dropped": NotRequired[dict[str, dict[str, int]]],
        "pairs/cut": NotRequired[int],
        "tokens/train": NotRequired[int],
        "reading": dict[str, object],
    },
)

_RECIPES = {
    "bradley_terry": "Bradley–Terry: −log σ(r(chosen) − r(rejected)) on one output",
    "hh": "the chosen texts first (language modelling), then Bradley–Terry on one output",
    "pairwise": "a language model that answers A or B to two responses in one prompt",
    "grm": "Bradley–Terry on a value head, regularised by generating the chosen responses",
    "armorm": "ratings of single attributes by ridge regression, mixed by a gate of the prompt",
}


def model_card(
    *,
    name: str,
    recipe: str,
    base: str,
    data: Sequence[str],
    origins: Mapping[str, int],
    shared: int,
    settings: Mapping[str, object],
    metrics: TrainedMetrics,
) -> str:
    """Return the model card as Markdown.

    Args:
        data: a line per source: what became of its rows.
        origins: source -> number of training pairs, before any was skipped for its length.
        shared: number of held-out pairs whose first turn is also a training pair's.
        settings: the resolved config.
        metrics: as the recipe returns them.
    """
    parts = [
        f"# {name}",
        f"A reward model for RLHF, trained by raft-rlhf with the recipe `{recipe}` from `{base}`.",
        "## Accuracy\n\n" + _accuracy(metrics, shared),
        "## How to use it\n\n" + _usage(recipe, metrics.get("reading", {})),
        "## Data\n\n" + _data(data, origins, metrics),
        f"## Recipe\n\n{_RECIPES[recipe]}.\n\n" + _settings(settings),
    ]
    return "\n\n".join(parts) + "\n"


def _accuracy(metrics: TrainedMetrics, shared: int) -> str:
    text = accuracy_in_words(metrics, bold=True)
    if shared:
        text += f" Of these pairs, {shared} begin as one does that was trained on."
    return text


def accuracy_in_words(metrics: TrainedMetrics, *, bold: bool = False) -> str:
    """Return the accuracy as one sentence, with its interval or why there is none."""
    accuracy = metrics.get("eval/accuracy")
    if accuracy is None:
        return "Not measured: no pairs were held out."
    share, pairs = f"{accuracy:.2%}", metrics.get("pairs/held_out")
    low, high = metrics.get("eval/accuracy_low"), metrics.get("eval/accuracy_high")
    interval = "no interval: these pairs all have one prompt, and it is by resampling prompts"
    if low is not None and high is not None and low == low:
        interval = f"95 % interval {low:.2%} to {high:.2%}, by resampling prompts"
    share = f"**{share}**" if bold else share
    return f"{share} of {pairs} held-out pairs ({interval}; a tie is lost)."


def _usage(recipe: str, reading: Mapping[str, object]) -> str:
    if recipe == "pairwise":
        code = 'load_judge("model", kind="pairwise").compare(comparisons)'
    else:
        code = 'load_reward("model").score(conversations)'
    rows = [f"| {key} | `{value!r}` |" for key, value in reading.items()]
    table = "\n".join(["| it reads | |", "|---|---|", *rows])
    kind = "load_judge" if recipe == "pairwise" else "load_reward"
    return f"```python\nfrom rewards import {kind}\n{code}\n```\n\n{table}"


def _data(data: Sequence[str], origins: Mapping[str, int], metrics: TrainedMetrics) -> str:
    lines = [f"- {line.strip()}" for line in data]
    trained = f"Trained on {metrics.get('pairs/train', 0)} pairs"
    if tokens := metrics.get("tokens/train"):
        trained += f" ({tokens:,} tokens)"
    dropped = metrics.get("pairs/dropped", {})
    left_out = [
        f"{count} {what} {reason}"
        for what, reasons in dropped.items()
        for reason, count in reasons.items()
    ]
    text = "\n".join(lines) + f"\n\n{trained}."
    if left_out:
        text += f" Left out: {', '.join(left_out).replace('held_out', 'held-out')}."
    if cut := metrics.get("pairs/cut"):
        text += f" Cut: {cut}."
    rows = [f"| {name or '(unnamed)'} | {count} |" for name, count in origins.items()]
    return text + "\n\n" + "\n".join(["| source | pairs |", "|---|---|", *rows])


def _settings(settings: Mapping[str, object]) -> str:
    shown = ("train", "sft", "loss", "pairwise", "grm", "armorm")
    rows = [
        f"| {name}.{key} | `{value!r}` |"
        for name in shown
        if isinstance(section := settings.get(name), Mapping)
        for key, value in section.items()
    ]
    return "\n".join(["| setting | |", "|---|---|", f"| seed | `{settings['seed']}` |", *rows])


def held_out_accuracy(
    margins_N: np.ndarray, pairs: Sequence[Pair], *, seed: int = 0
) -> dict[str, float]:
    """Return the accuracy of N pairs by their margins, NaN for one without, and its 95 % interval.

    The interval is by resampling `eval/prompts` prompts, the pairs of one prompt being one draw: it
    is NaN where the pairs with a margin all have one prompt and differ in outcome.
    """
    prompts = [json.dumps([*map(dict, pair.prompt)], ensure_ascii=False) for pair in pairs]
    found = pair_accuracy(margins_N, prompts, seed=seed)
    return {
        "eval/accuracy": found.strict,
        "eval/accuracy_low": found.interval.low,
        "eval/accuracy_high": found.interval.high,
        "eval/ties": found.ties,
        "eval/prompts": found.clusters,
    }
