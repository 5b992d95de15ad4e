"""Check a pairwise judge: the tokens its verdict is read from, and the effect of the order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from rewards.doctor.finding import Finding, note, ok, wrong
from rewards.doctor.pairs import (
    Advance,
    judged_findings,
    obvious_finding,
    obvious_pairs,
    prompt_numbers,
)
from rewards.doctor.tokens import both_ends, precision, shown
from rewards.evaluation.dataset import EvalRow
from rewards.judges.judge import Judge
from rewards.judges.prompt import PairPrompt
from rewards.tournament.verdicts import Verdicts
from rewards.types import Comparison, RewardError
from rollout.types import InputError

__all__ = ["check_judge_pairs", "check_judge_tokens", "check_order"]

_CHUNK = 64


def check_judge_tokens(judge: Judge) -> Iterator[Finding]:
    """Report text, tokens, header, labels, BOS and precision of a built-in comparison.

    The verdict follows the assistant's header and is read from the two label tokens. Loading
    refuses a judge without these; here they are shown.
    """
    prompt = getattr(judge, "prompt", None)
    if not isinstance(prompt, PairPrompt):
        yield note("tokens", "this judge does not show what it reads")
        return
    asked = _comparison(obvious_pairs()[0])
    assert asked is not None, "built-in pairs share their prompts"
    text = prompt.text(asked)
    ids = prompt.encode_both([asked], ["a built-in pair"])[0]
    yield ok("text", repr(text))
    yield ok("tokens", f"{len(ids)}: {both_ends(prompt.tokenizer, ids)}", count=len(ids))
    yield _header(text)
    yield ok("labels", f"{shown(prompt.tokenizer, prompt.label_ids)}, one token each")
    yield ok("BOS", f"{ids.count(prompt.tokenizer.bos_token_id)}, as the published judge reads it")
    yield precision(getattr(judge, "describe", dict)())


def check_order(judge: Judge) -> Iterator[Finding]:
    """Check that P(a, b) + P(b, a) = 1, and report how much it is worth to be shown first.

    Also report how often the better response of the built-in pairs wins.
    """
    comparisons = [c for c in map(_comparison, obvious_pairs()) if c is not None]
    forth, back = (
        _answers(judge, asked) for asked in (comparisons, [one.swap() for one in comparisons])
    )
    apart = float(np.max(np.abs(forth[0] + back[0] - 1)))
    detail = f"P(a, b) + P(b, a) is 1 up to {apart:.1e} in {len(comparisons)} comparisons"
    # 16-bit models round by up to a few hundredths
    if not apart <= 0.05:
        yield wrong("antisymmetry", detail, "average both orders", max_difference=apart)
    else:
        yield ok("antisymmetry", detail, max_difference=apart)
    yield _position(forth[1])
    yield obvious_finding(forth[0] - 0.5)


def check_judge_pairs(
    judge: Judge, pairs: Sequence[EvalRow], advance: Advance
) -> Iterator[Finding]:
    """Report accuracy, margin and length bias of a judge on N pairs of the user's.

    Pairs whose two prompts differ cannot be compared: they are counted and skipped. `advance` is
    called with the number of pairs that are newly done.
    """
    known = [(pair, one) for pair in pairs if (one := _comparison(pair)) is not None]
    if len(known) < len(pairs):
        left = len(pairs) - len(known)
        yield note("prompts", f"{left} of {len(pairs)} pairs differ before their last responses")
    compared = [one for _, one in known]
    margins: list[float] = []
    reasons: list[str] = []
    for start in range(0, len(compared), _CHUNK):
        chunk = compared[start : start + _CHUNK]
        margins += (_each_answer(judge, chunk, reasons) - 0.5).tolist()
        advance(len(chunk))
    if reasons:
        yield note("unread", f"{len(reasons)} of {len(compared)} pairs, the first: {reasons[0]}")
    extra_N = np.array([len(one.first) - len(one.second) for one in compared], dtype=np.float64)
    yield from judged_findings(
        np.array(margins), extra_N, prompt_numbers([pair for pair, _ in known])
    )


def _header(text: str) -> Finding:
    ending = text[-60:]
    if "assistant" in ending or "model" in ending:
        return ok("header", f"the prompt ends with the assistant's header: …{ending[-40:]!r}")
    return note(
        "header",
        f"the prompt ends with {ending[-40:]!r}, which names no assistant",
        "check that the model was trained to answer there",
    )


def _position(gaps: np.ndarray) -> Finding:
    known = gaps[np.isfinite(gaps)]
    if not len(known):
        return note("position", "the judge does not tell what it says in one order alone")
    mean, size = float(known.mean()), float(np.abs(known).mean())
    detail = f"being shown first is worth {mean:+.3f} in probability, {size:.3f} in size"
    if size > 0.2:
        return note("position", f"{detail}: averaged out, not removed", mean=mean, size=size)
    return ok("position", detail, mean=mean, size=size)


def _answers(judge: Judge, comparisons: Sequence[Comparison]) -> tuple[np.ndarray, np.ndarray]:
    """Return P(first is better) and the gap between the orders, (N,) each, NaN where unknown."""
    ask = getattr(judge, "verdicts", judge.compare)
    answer = ask(comparisons)
    if isinstance(answer, Verdicts):
        return answer.probability_N, answer.gap_N
    probability = np.array([np.nan if p is None else p for p in answer], dtype=np.float64)
    return probability, np.full(len(comparisons), np.nan)


def _each_answer(judge: Judge, asked: Sequence[Comparison], reasons: list[str]) -> np.ndarray:
    """Return P(first is better) (N,), NaN where the judge refuses; its errors go to `reasons`."""
    try:
        return _answers(judge, asked)[0]
    except (RewardError, InputError) as error:
        if len(asked) == 1:
            reasons.append(str(error))
            return np.full(1, np.nan)
    return np.concatenate([_each_answer(judge, [one], reasons) for one in asked])


def _comparison(pair: EvalRow) -> Comparison | None:
    """Return a pair as a comparison; None where its two responses have different prompts."""
    if len(pair.groups) != 1:
        return None
    first, second = pair.texts
    return Comparison(tuple(pair.conversations[0][:-1]), first=first, second=second)
