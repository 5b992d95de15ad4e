"""Train a pair preference model by RLHFlow's recipe: a language model that responds "A" or "B".

RLHF-Reward-Modeling/pair-pm: each pair once, in one random order; cross-entropy on the assistant's
turn alone, which is the label and the token that closes the turn.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.functional import logsigmoid

from rewards.checkpoints.loading import longest
from rewards.checkpoints.record import write_record
from rewards.data.pair import Pair
from rewards.judges.prompt import LABELS, PairPrompt, takes_turns
from rewards.training.bradley_terry import counts, measured
from rewards.training.examples import Encoded, Example, check_some_left, usable
from rewards.training.export import export_model
from rewards.training.fit import fit, forget_checkpoints
from rewards.training.layout import num_embeddings
from rewards.training.losses import LanguageObjective, Outcome, base_of
from rewards.training.model import load_trainable, pad_id_of
from rewards.training.settings import Layout, TrainingSettings
from rewards.training.trainer import OnMetrics
from rewards.types import Comparison, RewardError
from rollout.data.bad_rows import OnBadRow
from rollout.text.chat import apply_chat_template
from rollout.text.printable import one_line
from rollout.types import InputError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["LabelObjective", "Orders", "encode_comparisons", "train_pairwise"]

log = logging.getLogger("rewards")

_LONG = "whose responses alone are too long"

# show each pair in one random order, as published, or in both
Orders = Literal["one", "both"]


class LabelObjective(LanguageObjective):
    """Cross-entropy of label and closing token; evaluation looks at the two labels alone."""

    def __init__(self, layout: Layout, pad_id: int, label_ids: tuple[int, int]) -> None:
        super().__init__(layout, pad_id)
        self.label_ids = label_ids

    def run(self, model: nn.Module, examples: Sequence[Example]) -> Outcome:
        loss_N, _, logits_NV = self.token_losses(model, examples)
        first, second = self.label_ids
        # each row has two losses, that of the label and that of the closing token
        labels_R2 = logits_NV[::2, [first, second]].float()
        rows = [row for one in examples for row in one.rows]
        sign_R = torch.tensor([1.0 if row[-2] == first else -1.0 for row in rows])
        margin_R = (labels_R2[:, 0] - labels_R2[:, 1]).detach().cpu() * sign_R
        if all(len(one.rows) == 2 for one in examples):
            return Outcome(loss_N.sum(), {"margins": margin_R.reshape(-1, 2)})
        return Outcome(loss_N.sum())

    def judge(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        """Return metrics from log-odds (N, 2) of the chosen side, shown first and shown second."""
        margins_N2 = values["margins"]
        probability_N = margins_N2.sigmoid().mean(1)
        return {
            "eval/accuracy": float((probability_N > 0.5).float().mean()),
            "eval/loss": float(-logsigmoid(margins_N2).mean()),
            # how far the order moves the verdict
            "eval/position_bias": float((margins_N2[:, 0].sigmoid() - margins_N2[:, 1].sigmoid())
                                        .abs().mean()),
        }  # fmt: skip


def train_pairwise(
    base: str | Path,
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
    folder: str | Path,
    *,
    max_length: int | None = None,
    orders: Orders = "one",
    chat_template: str | None = None,
    on_bad_row: OnBadRow = "stop",
    training: TrainingSettings | None = None,
    on_metrics: OnMetrics | None = None,
) -> dict[str, object]:
    """Train on `pairs` and leave the judge in `folder`/model, for `load_judge(…, "pairwise")`.

    Held-out pairs are shown in both orders. Returns metrics as `train_bradley_terry` does.

    Raises `InputError` for pairs, models or settings that cannot be used.
    """
    training, folder = training or TrainingSettings(), Path(folder)
    model, tokenizer = load_trainable(base, "causal", training)
    plain = base_of(model)
    attention = plain.config._attn_implementation
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    vocabulary = num_embeddings(plain)
    prompt = PairPrompt(tokenizer, vocabulary, max_length or longest(plain.config, tokenizer))
    encode = partial(
        encode_comparisons, prompt=prompt, seed=training.seed, skips=on_bad_row == "skip"
    )
    train = encode(pairs, orders=orders)
    test = encode(held_out, orders="both", what="held-out")
    fitted = fit(
        model,
        lambda layout: LabelObjective(layout, pad_id_of(tokenizer), prompt.label_ids),
        train.examples,
        test.examples,
        training,
        pad_id=pad_id_of(tokenizer),
        checkpoints=folder / "checkpoints",
        on_metrics=on_metrics or (lambda step, values: None),
    )
    _export(model, prompt, folder / "model", attention)
    forget_checkpoints(folder / "checkpoints")
    odds_N = (fitted.values["margins"].sigmoid().mean(1) - 0.5).numpy()
    return {
        **fitted.metrics,
        **measured(odds_N, test, held_out, training.seed),
        **counts(train, test),
        "reading": prompt.describe(),
        "loss": {"orders": orders},
    }


def encode_comparisons(
    pairs: Sequence[Pair],
    prompt: PairPrompt,
    orders: Orders,
    seed: int,
    *,
    what: str = "training",
    skips: bool = False,
) -> Encoded:
    """Return at most N examples of N pairs: the prompt as a judge reads it, label, closing token.

    With "one" the order follows from seed and pair id; with "both" the row that shows the chosen
    side first comes first. Skipped, and counted: pairs as in `encode_pairs`, those whose prompt no
    judge reads, whose responses are more than their text, or alone are longer than the prompt's
    `max_length`, and with `skips` those that the chat template refuses.
    """
    dropped: Counter[str] = Counter()
    kept = [pair for pair in pairs if usable(pair, dropped) and _readable(pair, dropped)]
    closing, before = closing_token(prompt), prompt.truncated
    limit = prompt.max_length
    if limit is not None:
        prompt.max_length = limit - 2  # room for the label and the closing token
    try:
        found = _rows(kept, prompt, dropped, skips)
    finally:
        prompt.max_length = limit
    examples = []
    for pair, both in found:
        rows = [
            np.asarray([*row, label, closing], dtype=np.int32)
            for row, label in zip(both, prompt.label_ids, strict=True)
        ]
        chosen = rows if orders == "both" else [rows[_order(pair.id, seed)]]
        starts = tuple(len(row) - 2 for row in chosen)
        examples.append(Example(tuple(chosen), id=pair.id, loss_from=starts))
    check_some_left(examples, pairs, dropped, what)
    return Encoded(examples, dict(dropped), prompt.truncated - before)


def closing_token(prompt: PairPrompt) -> int:
    """Return the id that the chat template writes after a response, such as Llama 3's <|eot_id|>.

    Raises `InputError` for a template that closes a turn with no special token.
    """
    tokenizer = prompt.tokenizer
    asked = Message(role="user", content="QUESTION")
    answered = apply_chat_template(tokenizer, [asked, Message(role="assistant", content="ANSWER")])
    after = answered.rpartition("ANSWER")[2]
    ids = tokenizer(after, add_special_tokens=False)["input_ids"]
    if not ids or ids[0] not in tokenizer.all_special_ids + list(_added_special(tokenizer)):
        raise InputError(
            "chat_template",
            f"closes a response with {after[:20]!r} and no special token, "
            "so a judge cannot learn to end its turn",
            "give another",
        )
    return ids[0]


def _added_special(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    added = getattr(tokenizer, "added_tokens_decoder", {})
    return [index for index, token in added.items() if token.special]


def _order(id: str, seed: int) -> int:
    """Return 0 where the chosen side is shown first, 1 where second.

    The order follows from the pair's id, so that it does not depend on which other pairs there are.
    """
    return hashlib.sha256(f"{seed}\n{id}".encode()).digest()[0] & 1


def _readable(pair: Pair, dropped: Counter[str]) -> bool:
    """Return whether a judge can read the pair's prompt and responses; count the pair if not."""
    if pair.messages:
        dropped["whose responses are more than their text"] += 1
        return False
    if takes_turns(pair.prompt):
        return True
    dropped["whose prompt is not user and assistant in turn"] += 1
    return False


def _rows(
    pairs: Sequence[Pair], prompt: PairPrompt, dropped: Counter[str], skips: bool
) -> list[tuple[Pair, tuple[list[int], list[int]]]]:
    """Return each pair that fits, with its rows in both orders; where one fails, halves are tried.

    Counts pairs that do not fit, and with `skips` those that the chat template refuses. Raises
    `InputError` for these without `skips`.
    """
    if not pairs:
        return []
    comparisons = [Comparison(pair.prompt, pair.chosen, pair.rejected) for pair in pairs]
    try:
        rows = prompt.encode_both(comparisons, [f"pair {pair.id!r}" for pair in pairs])
    except (InputError, RewardError) as error:
        if isinstance(error, InputError) and not skips:
            raise
        if len(pairs) == 1:
            why = f"that {one_line(error.problem)}" if isinstance(error, InputError) else _LONG
            dropped[why] += 1
            return []
        half = len(pairs) // 2
        parts = (_rows(part, prompt, dropped, skips) for part in (pairs[:half], pairs[half:]))
        return [row for rows in parts for row in rows]
    both = zip(rows[: len(pairs)], rows[len(pairs) :], strict=True)
    return list(zip(pairs, both, strict=True))


def _export(model: nn.Module, prompt: PairPrompt, folder: Path, attention: str | None) -> None:
    if prompt.max_length is not None:
        prompt.tokenizer.model_max_length = prompt.max_length
    export_model(
        model,
        prompt.tokenizer,
        folder,
        attention=attention,
        finish=lambda partial: write_record(
            partial, {}, recipe="pairwise", kind="pairwise", labels=list(LABELS),
            max_length=prompt.max_length,
        ),
    )  # fmt: skip
