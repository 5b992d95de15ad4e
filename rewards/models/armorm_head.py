"""ArmoRM's head: rewards for 19 attributes, and a gate that weighs them by the prompt."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from rewards.types import RewardError
from rollout.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "ARMORM_ATTRIBUTES", "EOT", "HEADER", "Gate", "GatingHead", "GatingWeights", "gate_of",
    "helpsteer_ratings",
]  # fmt: skip

# in the order of the rewards, as the card of RLHFlow/ArmoRM-Llama3-8B-v0.1 names them
ARMORM_ATTRIBUTES = (
    "helpsteer-helpfulness", "helpsteer-correctness", "helpsteer-coherence",
    "helpsteer-complexity", "helpsteer-verbosity", "ultrafeedback-overall_score",
    "ultrafeedback-instruction_following", "ultrafeedback-truthfulness",
    "ultrafeedback-honesty", "ultrafeedback-helpfulness", "beavertails-is_safe",
    "prometheus-score", "argilla-overall_quality", "argilla-judge_lm", "code-complexity",
    "code-style", "code-explanation", "code-instruction-following", "code-readability",
)  # fmt: skip

EOT = "<|eot_id|>"
HEADER = "<|start_header_id|>assistant<|end_header_id|>\n\n"
_LLAMA3_EOT = 128009
_LLAMA3_GATE = (128009, 128006, 78191, 128007, 271)


@dataclass(frozen=True, slots=True)
class Gate:
    """The ids where a response begins: the closing token of the prompt, then the header.

    `max_length` is what conversations are cut to, for messages.
    """

    ids: tuple[int, ...]
    max_length: int | None = None

    def find(self, row: Sequence[int], name: str) -> int:
        """Return where the last gate of `row` starts: at the `<|eot_id|>` that closes the prompt.

        Raises `RewardError` when there is none, or `row` does not end as a response does.
        """
        size, row = len(self.ids), tuple(row)
        cut = self.max_length is not None and len(row) >= self.max_length
        for start in range(len(row) - size, -1, -1):
            if row[start : start + size] == self.ids:
                break
        else:
            reason = (
                f"the cut to max_length={self.max_length} removed it: use a larger max_length"
                if cut
                else "it is not in Llama 3's chat format"
            )
            raise RewardError(f"{name} has no assistant header to gate by: {reason}")
        # a conversation that was cut on the right is scored where it stops, as the card's code does
        if row[-1] != self.ids[0] and not cut:
            raise RewardError(f"{name} does not end with {EOT}: it is not in Llama 3's chat format")
        return start


def gate_of(tokenizer: PreTrainedTokenizerBase, name: str, max_length: int | None = None) -> Gate:
    """Return the gate in the ids of the checkpoint's own tokenizer.

    Raises `InputError` when the tokenizer does not know Llama 3's special tokens, or has the ids of
    Llama 3 but splits the header in another way.
    """
    ids = tuple(tokenizer(EOT + HEADER, add_special_tokens=False)["input_ids"])
    known = tokenizer.get_vocab()
    for token in (EOT, "<|start_header_id|>", "<|end_header_id|>"):
        if token not in known or known[token] not in ids:
            raise InputError(
                name,
                f"its tokenizer has no token {token}: ArmoRM reads Llama 3's chat format",
            )
    if known[EOT] == _LLAMA3_EOT and ids != _LLAMA3_GATE:
        raise InputError(
            name,
            f"its tokenizer turns the assistant header into {list(ids)}, where Llama 3 has "
            f"{list(_LLAMA3_GATE)}",
            "use the tokenizer files that belong to the model",
        )
    return Gate(ids, max_length)


@dataclass(frozen=True, slots=True)
class GatingWeights:
    """The tensors of a head with K attributes: `regression_KH` (W in `GatingHead`), `transform_KK`
    (M), the weight (out, in) and bias (out,) of each of the gate's linear layers, the last with K
    outputs; and the numbers `temperature` (T) and `logit_scale` (s)."""

    regression_KH: torch.Tensor
    transform_KK: torch.Tensor
    layers: Sequence[tuple[torch.Tensor, torch.Tensor]]
    logit_scale: float = 1.0
    temperature: float = 10.0


class GatingHead:
    """rewards = W·H[last]; gating G = s·softmax(MLP(H[gate]) / T); score = Σ_k G_k (rewards·M)_k.

    This is `LlamaForRewardModelWithGating` of the published checkpoint. With coefficients c = G·Mᵀ
    the score is Σ_k c_k rewards_k; `rewards` are not adjusted by M. The card's code casts the head
    to bfloat16, as its printed numbers show; here it computes in float32 from the file's values.

    The gate is the last in the text, as published: a response that writes one out as special tokens
    moves it. `attributes` are the names of the K rewards; None: the published ones where there are
    19, else numbers.
    """

    def __init__(
        self, weights: GatingWeights, gate: Gate, attributes: Sequence[str] | None = None
    ) -> None:
        count = len(weights.regression_KH)
        published = count == len(ARMORM_ATTRIBUTES)
        self.gate = gate
        unnamed = ARMORM_ATTRIBUTES if published else tuple(map(str, range(count)))
        self.attributes = unnamed if attributes is None else tuple(attributes)
        self.temperature = float(weights.temperature)
        self.logit_scale = float(weights.logit_scale)
        self.regression_KH = weights.regression_KH.detach().float()
        self.transform_KK = weights.transform_KK.detach().float()
        self.layers = [(w.detach().float(), b.detach().float()) for w, b in weights.layers]

    def positions(self, ids: Sequence[int], name: str) -> Sequence[int]:
        """Return the positions (gate, last token). Raises `RewardError` where there is no gate."""
        return (self.gate.find(ids, name), len(ids) - 1)

    def outputs(self, states_BQH: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return `score` (B,) and `rewards`, `gating` and `coefficients` (B, K) of B rows, from
        their states at (gate, last token)."""
        gate_BH, last_BH = states_BQH.unbind(dim=1)
        rewards_BK = nn.functional.linear(last_BH, self.regression_KH)
        gating_BK = self._gating(gate_BH)
        return {
            "score": (gating_BK * (rewards_BK @ self.transform_KK)).sum(dim=1),
            "rewards": rewards_BK,
            "gating": gating_BK,
            "coefficients": gating_BK @ self.transform_KK.T,
        }

    def describe(self) -> dict[str, object]:
        return {
            "head": "gating",
            "pooling": "rewards: last token; gating: end of the prompt",
            "attributes": list(self.attributes),
            "gating_temperature": self.temperature,
        }

    def to(self, device: str) -> None:
        self.regression_KH = self.regression_KH.to(device)
        self.transform_KK = self.transform_KK.to(device)
        self.layers = [(weight.to(device), bias.to(device)) for weight, bias in self.layers]

    def _gating(self, state_BD: torch.Tensor) -> torch.Tensor:
        for number, (weight, bias) in enumerate(self.layers):
            if number:
                state_BD = state_BD.relu()
            state_BD = nn.functional.linear(state_BD, weight, bias)
        return (state_BD / self.temperature).softmax(dim=1) * self.logit_scale


def helpsteer_ratings(rewards_NK: np.ndarray) -> np.ndarray:
    """Return the first five of ArmoRM's rewards (N, K) on HelpSteer's scale of 0 to 4, (N, 5).

    Labels were (rating + 0.5) / 5, so a rating is 5·reward − 0.5, as on the card.
    """
    return rewards_NK[:, :5] * 5 - 0.5
