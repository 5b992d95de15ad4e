"""What rejecting responses by the score of their beginning would have saved, on a run's rollouts.

A prompt's stored responses are cut after so many tokens and scored by the run's own reward; the
best of them by that score go on to their end, the others are dropped. Beside it stands the best of
n whole responses for the same number of tokens (between whole n, in proportion). Nothing is drawn.

A run draws those that go on again from their start, unless their beginnings are whole: the last two
columns count that. The two before are of an engine that could go on with a beginning. `foresight`
is the correlation of the two scores within prompts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from experiments.bench.table import table
from raft.bon.estimate import expected_best_of_ns
from raft.config.load import load_config
from raft.early_rejection import foresight
from raft.runs.prompts import load_tokenizer
from raft.selection.rules import best_of_k, padded
from rewards.build import build_reward
from rewards.evaluation.stats import mean_ci95
from rollout.data.samples import REWARD, SampleRow, read_samples
from rollout.types import Completion, Group, Prompt

Floats = NDArray[np.float64]


def main(arguments: Sequence[str] | None = None) -> None:
    program = "python -m experiments.bench.early_rejection"
    parser = argparse.ArgumentParser(prog=program, description=__doc__)
    parser.add_argument("run", type=Path, help="run folder whose rollouts and reward are used")
    parser.add_argument("--tokens", type=int, nargs="+", default=[8, 16, 24])
    parser.add_argument(
        "--keep", type=int, nargs="+", default=[2, 4], help="of a prompt's responses"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    found = list(measure(options.run, options.tokens, options.keep))
    head = ["tokens", "kept", "foresight", "reward", "gain going on", "saved", "gain", "saved"]
    print(json.dumps(found) if options.json else table(head, [_told(row) for row in found]))


def measure(
    run: Path, tokens: Sequence[int], keep: Sequence[int]
) -> Iterator[dict[str, float | int]]:
    """Yield a row for each pair of a number of tokens and of responses that go on.

    Ends with SystemExit for a run whose rollouts lack responses.
    """
    config = load_config(run / "config.yaml")
    if config.sampling.way is not None:
        raise SystemExit(f"{run}: sampling.{config.sampling.way} left responses out; take another")
    tokenizer, reward = load_tokenizer(config.policy.model), build_reward(config.reward)
    rows = [
        row
        for file in sorted(run.glob("iterations/*/rollouts.jsonl"))
        for row in read_samples(file)
    ]
    whole_PN = padded([row.scores[REWARD] for row in rows])
    length_PN = padded([[float(len(ids)) for ids in row.token_ids] for row in rows])
    for cut in tokens:
        groups = [_beginnings(row, cut, tokenizer) for row in rows]
        begun_PN = padded(reward.score_groups(groups))
        for kept in keep:
            yield {"tokens": cut, "kept": kept} | compare(whole_PN, begun_PN, length_PN, cut, kept)


def compare(
    whole_PN: Floats, begun_PN: Floats, length_PN: Floats, cut: int, kept: int
) -> dict[str, float]:
    """Compare early rejection with the best of n whole responses for the same number of tokens.

    All arrays are (P, N). `reward` is the mean best score of the `kept` responses with the best
    beginnings, `plain` that of best of n, `gain` their difference, and `saved` the share of the
    tokens of a best of n with the same score that rejection saves. Names in `…_going_on` count
    the tokens of an engine that goes on with beginnings; the others draw them again.
    """
    order_PN = np.argsort(-begun_PN, axis=1, kind="stable")
    goes_on_PN = order_PN.argsort(axis=1) < kept
    best_P = best_of_k(np.where(goes_on_PN, whole_PN, np.nan))
    reached_P = whole_PN[np.arange(len(whole_PN)), best_P]
    begun_tokens, longer_PN = np.minimum(length_PN, cut).sum(), goes_on_PN & (length_PN > cut)
    found = {"foresight": foresight(whole_PN, begun_PN), "reward": float(reached_P.mean())}
    curve_PS = expected_best_of_ns(whole_PN, range(1, whole_PN.shape[1] + 1))
    for name, again in (("", length_PN), ("_going_on", length_PN - cut)):
        spent = begun_tokens + again[longer_PN].sum()
        n = whole_PN.shape[1] * spent / length_PN.sum()
        # at least one whole response, at most all that are stored, whatever the tokens
        at = min(max(int(n), 1), whole_PN.shape[1] - 1)
        part = min(max(n - at, 0), 1)
        plain_P = (1 - part) * curve_PS[:, at - 1] + part * curve_PS[:, at]
        gain, half = mean_ci95(reached_P - plain_P)
        curve_S = curve_PS.mean(axis=0)
        needed = float(np.interp(reached_P.mean(), curve_S, np.arange(1, len(curve_S) + 1)))
        found |= {
            f"plain{name}": float(plain_P.mean()),
            f"gain{name}": gain,
            f"gain_ci95{name}": half,
            f"saved{name}": float(1 - n / needed),
        }
    return found


def _beginnings(row: SampleRow, cut: int, tokenizer: object) -> Group:
    completions = [
        Completion(
            text if len(ids) <= cut else tokenizer.decode(ids[:cut], skip_special_tokens=True),  # type: ignore[attr-defined]
            tuple(ids[:cut]),
        )
        for text, ids in zip(row.responses, row.token_ids, strict=True)
    ]
    content = row.prompt if isinstance(row.prompt, str) else tuple(row.prompt or ())
    return Group(Prompt(row.id, content), tuple(completions), row.policy_version or 0)


def _told(row: dict[str, float | int]) -> list[str]:
    def cells(way: str) -> tuple[str, str]:
        gain, half = row[f"gain{way}"], row[f"gain_ci95{way}"]
        return f"{gain:+.3f} ± {half:.3f}", f"{row[f'saved{way}']:.0%}"

    return [
        str(row["tokens"]), str(row["kept"]), f"{row['foresight']:.2f}", f"{row['reward']:.3f}",
        *chain(*map(cells, ("_going_on", ""))),
    ]  # fmt: skip


if __name__ == "__main__":
    main()
