"""Log-probabilities, KL estimates and perplexity against closed forms and the library's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_models as tiny

from raft.monitor import log_probs as module
from raft.monitor.diversity import diversity_metrics, duplicate_share, msttr, text_key
from raft.monitor.kl import LogProbWorker, divergence_metrics, k3_sum
from raft.monitor.log_probs import Row, log_probs
from rollout.engines.toy import ToyEngine, write_toy
from rollout.types import Prompt, Sampling

WORDS = ["</s>", "good", "bad", "tree", "<unk>"]
START = [0.5, 0.0, 0.3, -0.2, 0.1]
TRAINED = [0.1, 0.9, -0.4, 0.2, 0.0]


def softmax(logits: list[float], temperature: float = 1.0) -> np.ndarray:
    raised = np.exp(np.array(logits) / temperature)
    return raised / raised.sum()


def closed_form(temperature: float, tokens: int) -> float:
    """KL of two unigram policies' responses: that of one token, times the expected number of
    tokens (Wald), where each token ends the response with probability p(</s>)."""
    p, q = softmax(TRAINED, temperature), softmax(START, temperature)
    length = sum((1 - p[0]) ** t for t in range(tokens))
    return float((p * np.log(p / q)).sum() * length)


@pytest.fixture
def toys(tmp_path: Path) -> tuple[str, str]:
    write_toy(tmp_path / "start", WORDS, START)
    write_toy(tmp_path / "trained", WORDS, TRAINED)
    return str(tmp_path / "start"), str(tmp_path / "trained")


def estimated(
    toys: tuple[str, str], prompts: int, temperature: float = 1.0, seed: int = 0, k: int = 4
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Samples of the trained toy policy through the monitor's worker: rows and metrics."""
    start, trained = toys
    sampling = Sampling(k=k, max_new_tokens=12, temperature=temperature)
    asked = [Prompt(str(number), "tree", token_ids=(3,)) for number in range(prompts)]
    groups = list(ToyEngine(trained).generate(asked, sampling, seed))
    samples = [Row((3, *c.token_ids), 1, temperature) for g in groups for c in g.completions]
    found = LogProbWorker(start).measure(trained, samples, [])
    rows = [
        {
            "log_probs": found.log_probs[at : at + k],
            "start_log_probs": found.start_log_probs[at : at + k],
            "kl_k3": found.kl_k3[at : at + k],
        }
        for at in range(0, len(samples), k)
    ]
    return rows, divergence_metrics(rows)


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_both_estimators_are_unbiased(toys: tuple[str, str], temperature: float) -> None:
    # 20,000 responses: within four standard errors of the closed form, which is far from 0
    _, found = estimated(toys, 5000, temperature)
    truth = closed_form(temperature, 12)
    for name in ("eval/kl_k1", "eval/kl_k3"):
        assert abs(found[name] - truth) < 4 / 1.96 * found[f"{name}_ci95"]
        assert found[f"{name}_ci95"] < 0.1 * truth


@pytest.mark.slow
def test_k3_is_never_negative_and_varies_less_nearby(toys: tuple[str, str]) -> None:
    rows, found = estimated(toys, 500)
    assert min(value for row in rows for value in row["kl_k3"]) >= 0
    k1 = [a - b for r in rows for a, b in zip(r["log_probs"], r["start_log_probs"], strict=True)]
    assert min(k1) < 0
    assert found["eval/kl_k3_ci95"] < 0.7 * found["eval/kl_k1_ci95"]


def test_k3_by_token_where_whole_responses_would_be_wrong() -> None:
    # 50 tokens of 0.4 nats each: k3 of the whole says k1 - 1, but for samples of one in e^20
    rng = np.random.default_rng(0)
    p, q = np.array([0.9, 0.1]), np.array([0.45, 0.55])
    drawn = rng.choice(2, size=(4000, 50), p=p)
    by_token = [k3_sum(np.log(p)[row], np.log(q)[row]) for row in drawn]
    d = (np.log(p) - np.log(q))[drawn].sum(1)
    whole = np.expm1(-d) + d
    truth = 50 * float((p * np.log(p / q)).sum())
    error = float(np.std(by_token)) / math.sqrt(4000)
    assert abs(np.mean(by_token) - truth) < 4 * error
    assert truth - np.mean(whole) > 0.5


@pytest.mark.thorough
@pytest.mark.slow
def test_the_intervals_cover(toys: tuple[str, str]) -> None:
    # 300 evaluations of 25 prompts: 95 % of the intervals hold the truth, to simulation error
    truth = closed_form(1.0, 12)
    found = [estimated(toys, 25, seed=1000 * seed)[1] for seed in range(300)]
    for name in ("eval/kl_k1", "eval/kl_k3"):
        covered = [abs(one[name] - truth) <= one[f"{name}_ci95"] for one in found]
        assert 0.90 <= np.mean(covered) <= 0.985


def test_a_policy_is_at_no_distance_from_itself(toys: tuple[str, str]) -> None:
    start, _ = toys
    _, found = estimated((start, start), 5)
    assert set(found.values()) == {0.0}


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo"])
def test_log_probs_are_those_of_one_row_at_a_time(
    tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # rows of many lengths, in padded batches of three or four; in the order asked for
    folder = tiny.checkpoint(tmp_path / family, family)
    rng = np.random.default_rng(0)
    ids = [tuple(rng.integers(3, 320, size).tolist()) for size in (5, 40, 2, 17, 33, 8, 21, 3)]
    rows = [Row(one, first=1 + at % (len(one) - 1)) for at, one in enumerate(ids)]
    monkeypatch.setitem(module.MOST_TOKENS, "cpu", 70)
    found = log_probs(str(folder), rows)
    for row, values in zip(rows, found, strict=True):
        expected = tiny.log_probs(folder, row.ids)[row.first - 1 :]
        np.testing.assert_allclose(values, expected, atol=2e-5)


def test_temperature_divides_the_logits_of_all_tokens(tmp_path: Path) -> None:
    # a model that says the same always, so that the softmax can be written down
    logits = [0.0, 1.0, -1.0, 0.5]
    folder = tiny.fixed_logits(tmp_path / "fixed", logits)
    row = Row((1, 3, 0, 2), first=2, temperature=0.5)
    expected = np.log(softmax(logits, 0.5))[[0, 2]]
    np.testing.assert_allclose(log_probs(str(folder), [row])[0], expected, atol=1e-4)


@pytest.mark.slow
def test_long_rows_are_judged_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny.checkpoint(tmp_path / "llama", "llama")
    row = Row(tuple(range(3, 103)), first=10)
    whole = log_probs(str(folder), [row])[0]
    monkeypatch.setattr(module, "_POSITIONS_AT_A_TIME", 7)
    assert len(whole) == 90
    np.testing.assert_array_equal(log_probs(str(folder), [row])[0], whole)


@pytest.mark.slow
def test_perplexity_is_that_of_the_librarys_own_loss(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    folder = tiny.checkpoint(tmp_path / "gpt2", "gpt2")
    texts = [tuple(range(3, 60)), tuple(range(100, 120))]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = [torch.tensor([one]) for one in texts]
    with torch.no_grad():
        losses = [float(model(input_ids=one, labels=one).loss) for one in ids]
    worker = LogProbWorker(str(folder))
    first = worker.measure(str(folder), [], [Row(texts[0])]).perplexity
    assert first == pytest.approx(math.exp(losses[0]), rel=1e-5)
    # several: each of their tokens counts alike, but for the first, which nothing predicts
    both = worker.measure(str(folder), [], [Row(one) for one in texts]).perplexity
    mean = (56 * losses[0] + 19 * losses[1]) / 75
    assert both == pytest.approx(math.exp(mean), rel=1e-5)


def test_msttr_by_hand() -> None:
    # segments of four words: {a b a c}, {d d d e}; the last word fills none
    texts = ["A b, a", "c d d", "d e f"]
    assert msttr(texts, segment=4) == pytest.approx((3 / 4 + 2 / 4) / 2)
    assert math.isnan(msttr(texts))
    assert diversity_metrics(texts) == {"eval/duplicate_share": 0.0}
    # twice the text says the same, where distinct-1 would fall by half
    long = [" ".join(f"w{n}" for n in range(50))] * 4
    assert msttr(long) == msttr(long * 2) == 0.5


def test_duplicates_are_counted_on_both_sides() -> None:
    keys = [text_key(text) for text in ("a b", " a b ", "c", "a b.", "c", "")]
    assert duplicate_share(keys) == pytest.approx(4 / 6)
    assert duplicate_share(keys[1:3]) == 0
    assert math.isnan(duplicate_share([]))
