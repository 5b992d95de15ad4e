"""The losses against their closed forms, on numbers made by hand."""

from __future__ import annotations

import math

import pytest
import torch

from rewards.training.losses import bradley_terry, centering, pair_loss, positive

CHOSEN, REJECTED, MARGIN = [1.5, -0.25, 3.0], [0.5, 0.75, -2.0], [0.5, 0.0, 2.0]
PAIRS = list(zip(CHOSEN, REJECTED, MARGIN, strict=True))


def log_sigmoid(x: float) -> float:
    return -math.log(1 + math.exp(-x))


def close(found: torch.Tensor, expected: list[float]) -> bool:
    return found.dtype == torch.float32 and found.tolist() == pytest.approx(expected, rel=1e-6)


def test_bradley_terry_is_the_negative_log_sigmoid_of_the_difference() -> None:
    found = bradley_terry(torch.tensor(CHOSEN), torch.tensor(REJECTED))
    assert close(found, [-log_sigmoid(c - r) for c, r, _ in PAIRS])


def test_a_margin_is_taken_off_the_difference() -> None:
    found = bradley_terry(torch.tensor(CHOSEN), torch.tensor(REJECTED), torch.tensor(MARGIN))
    assert close(found, [-log_sigmoid(c - r - m) for c, r, m in PAIRS])


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.49])
def test_label_smoothing_mixes_in_the_other_order(epsilon: float) -> None:
    found = bradley_terry(
        torch.tensor(CHOSEN), torch.tensor(REJECTED), torch.tensor(MARGIN), epsilon
    )
    expected = [
        -(1 - epsilon) * log_sigmoid(c - r - m) - epsilon * log_sigmoid(-(c - r - m))
        for c, r, m in PAIRS
    ]
    assert close(found, expected)


def test_centering_is_trls_square_of_the_sum() -> None:
    found = centering(torch.tensor(CHOSEN), torch.tensor(REJECTED))
    assert close(found, [(c + r) ** 2 for c, r, _ in PAIRS])


def test_positive_regularisation_is_that_of_a_batch_of_one() -> None:
    assert close(positive(torch.tensor(CHOSEN)), [-log_sigmoid(c) for c in CHOSEN])


def test_the_terms_add_up_with_their_weights() -> None:
    found = pair_loss(
        torch.tensor(CHOSEN), torch.tensor(REJECTED),
        margin_P=torch.tensor(MARGIN), label_smoothing=0.1, center=0.01, positive_weight=0.3,
    )  # fmt: skip
    expected = [
        -0.9 * log_sigmoid(c - r - m) - 0.1 * log_sigmoid(m + r - c)
        + 0.01 * (c + r) ** 2 - 0.3 * log_sigmoid(c)
        for c, r, m in PAIRS
    ]  # fmt: skip
    assert close(found, expected)


def test_sixteen_bit_rewards_are_subtracted_in_float32() -> None:
    # in bfloat16 the difference of these two would be 0 or 0.0625
    chosen = torch.tensor([10.0625], dtype=torch.bfloat16)
    rejected = torch.tensor([10.0], dtype=torch.bfloat16) + 0
    exact = float(chosen.float() - rejected.float())
    assert close(bradley_terry(chosen, rejected), [-log_sigmoid(exact)])


def test_large_differences_neither_overflow_nor_lose_their_gradient() -> None:
    chosen = torch.tensor([-1e4, 1e4], requires_grad=True)
    loss = bradley_terry(chosen, torch.zeros(2))
    loss.sum().backward()
    assert loss.tolist() == [1e4, 0.0]
    assert chosen.grad is not None and chosen.grad.tolist() == [-1.0, 0.0]
