"""The language-model objective: cross-entropy of chosen tokens, a mean over all of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from inspect import signature
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from rewards.training.example import Example
from rewards.training.layout import LaidOut, Layout, lay_out
from rewards.training.objective import Outcome
from rewards.training.pair_objective import base_of

__all__ = ["LanguageObjective", "logits_at"]


class LanguageObjective:
    """−log p of the tokens of each row from its `loss_from` on."""

    def __init__(self, layout: Layout, pad_id: int) -> None:
        self.layout: Layout = layout
        self.pad_id = pad_id

    def weight(self, example: Example) -> float:
        return float(sum(_predicted(example)))

    def run(self, model: Any, examples: Sequence[Example]) -> Outcome:
        loss_N, owner_N, _ = self.token_losses(model, examples)
        sums_P = torch.zeros(len(examples), device=loss_N.device)
        sums_P = sums_P.index_add(0, owner_N, loss_N.detach())
        tokens_P = torch.tensor([self.weight(one) for one in examples])
        return Outcome(loss_N.sum(), {"nll": sums_P, "tokens": tokens_P})

    def judge(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        return {"eval/loss": float(values["nll"].sum() / values["tokens"].sum())}

    def token_losses(
        self, model: Any, examples: Sequence[Example]
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the N tokens with a loss: it in float32 (N,), their example's number (N,), and the
        logits (N, V) that predict them. Row after row, in order."""
        laid = self.laid_out(model, examples)
        wanted, targets, owner = [], [], []
        rows = ((number, row, start) for number, one in enumerate(examples)
                for row, start in zip(one.rows, one.loss_from, strict=True))  # fmt: skip
        for place, (number, row, start) in enumerate(rows):
            # the first token of a row is predicted by nothing
            wanted += [(place, position - 1) for position in range(max(start, 1), len(row))]
            targets += row[max(start, 1) :].tolist()
            owner += [number] * (len(row) - max(start, 1))
        logits_NV = logits_at(base_of(model), laid, wanted)
        loss_N = cross_entropy(
            logits_NV.float(), torch.tensor(targets, device=logits_NV.device), reduction="none"
        )
        return loss_N, torch.tensor(owner, device=logits_NV.device), logits_NV

    def laid_out(self, model: Any, examples: Sequence[Example]) -> LaidOut:
        rows = [row for one in examples for row in one.rows]
        return lay_out(rows, self.layout, self.pad_id, model.device)


def logits_at(model: Any, laid: LaidOut, wanted: Sequence[tuple[int, int]]) -> torch.Tensor:
    """Logits (N, V) at N places (row, position), whatever the model does to them at its end.

    Only the columns asked for go through the output embedding, which is most of the memory where
    vocabularies are large.
    """
    columns = sorted({laid.column(row, position) for row, position in wanted})
    number = {column: index for index, column in enumerate(columns)}
    keep: dict[str, Any] = {}
    if "logits_to_keep" in signature(type(model).forward).parameters:
        keep["logits_to_keep"] = torch.tensor(columns, device=model.device)
    else:
        number = {column: column for column in columns}
    with laid.running():
        logits_BKV = model(**laid.inputs, use_cache=False, **keep).logits
    rows_N = [0 if laid.tree is not None else row for row, _ in wanted]
    columns_N = [number[laid.column(row, position)] for row, position in wanted]
    return logits_BKV[rows_N, columns_N]


def _predicted(example: Example) -> list[int]:
    return [
        len(row) - max(start, 1) for row, start in zip(example.rows, example.loss_from, strict=True)
    ]
