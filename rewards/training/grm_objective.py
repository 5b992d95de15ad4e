"""Define GRM's value head and objective: Bradley–Terry, regularised by generating the responses.

Yang et al. 2024 (arXiv 2406.10216) and their code: L = (1−α)·L_reward + α·L_reg with α = 0.01.
`sft`, `dpo` and `grm_loss` are functions of rewards and log-probabilities that return one loss per
pair (P,), whose mean is the published loss. ℓ(y) is the SUM of a response's token
log-probabilities, so the regularisers weigh a long response more than a short one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, cast

import torch
from torch import nn
from torch.nn.functional import logsigmoid
from torch.utils.checkpoint import checkpoint

from rewards.training.examples import Example
from rewards.training.layout import LaidOut, lay_out
from rewards.training.losses import Outcome, base_of, bradley_terry, judge_pairs
from rewards.training.settings import GRMSettings, Layout

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

__all__ = [
    "GRMObjective",
    "Head",
    "dpo",
    "grm_loss",
    "logits_of",
    "sft",
    "summed_log_probs",
]

# "dpo_free" is DPO without a reference model


def summed_log_probs(
    logits_NV: torch.Tensor, targets_N: torch.Tensor, row_N: torch.Tensor, rows: int
) -> torch.Tensor:
    """Return ℓ (B,) of B = `rows` responses, in float32.

    Args:
        logits_NV: at each of the N positions whose next token counts.
        targets_N: that next token.
        row_N: which response the token belongs to.
    """
    token_N = -torch.nn.functional.cross_entropy(logits_NV.float(), targets_N, reduction="none")
    return token_N.new_zeros(rows).index_add(0, row_N, token_N)


def sft(chosen_P: torch.Tensor, beta: float = 0.1, *, log_sigmoid: bool = True) -> torch.Tensor:
    """Return −log σ(β·ℓ(y_c)), or −ℓ(y_c) without the sigmoid (their `no_logsigmoid_sft`), (P,)."""
    return -logsigmoid(beta * chosen_P) if log_sigmoid else -chosen_P


def dpo(
    chosen_P: torch.Tensor,
    rejected_P: torch.Tensor,
    beta: float = 0.1,
    reference: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Return −log σ(β·[ℓ(y_c) − ℓ(y_r) − (ℓ_ref(y_c) − ℓ_ref(y_r))]), (P,).

    Without a reference both ℓ_ref are 0.
    """
    gain_P = chosen_P - rejected_P
    if reference is not None:
        gain_P = gain_P - (reference[0] - reference[1])
    return -logsigmoid(beta * gain_P)


def grm_loss(
    rewards: tuple[torch.Tensor, torch.Tensor],
    regularisation_P: torch.Tensor | None,
    alpha: float = 0.01,
) -> torch.Tensor:
    """Return (1−α)·BT + α·L_reg per pair; without L_reg, plain Bradley–Terry on the value head."""
    reward_P = bradley_terry(*rewards)
    if regularisation_P is None:
        return reward_P
    return (1 - alpha) * reward_P + alpha * regularisation_P


# positions whose logits over the whole vocabulary are held at once
_LOGITS = 1024


class Head(nn.Module):
    """The value head, from states (B, H) to values (B,), with published names of its tensors."""

    def __init__(self, size: int, settings: GRMSettings) -> None:
        super().__init__()
        self.dropout = nn.Dropout(settings.head_dropout)
        layers: list[nn.Module] = []
        for _ in range(settings.head_layers):
            layers += [nn.Linear(size, settings.head_neurons), nn.ReLU()]
            size = settings.head_neurons
        layers.append(nn.Linear(size, 1))
        self.summary = nn.Sequential(*layers) if settings.head_layers else layers[0]

    def forward(self, states_BH: torch.Tensor) -> torch.Tensor:
        return self.summary(self.dropout(states_BH))[:, 0]


class GRMObjective:
    """The loss of P pairs in one forward pass over both sides.

    Rewards are read at the last tokens, and the log-probabilities of the responses that the
    regulariser asks for are summed.

    Args:
        reference: a frozen copy of the language model, for DPO; None: the model without its
            adapters, where it has any.
    """

    def __init__(
        self, settings: GRMSettings, layout: Layout, pad_id: int, reference: nn.Module | None = None
    ) -> None:
        self.settings = settings
        self.layout: Layout = layout
        self.pad_id = pad_id
        self.reference = reference

    def weight(self, example: Example) -> float:
        return 1.0

    def run(self, model: nn.Module, examples: Sequence[Example]) -> Outcome:
        base = base_of(model)
        rows = [one.rows[side] for side in (0, 1) for one in examples]
        laid = lay_out(rows, self.layout, self.pad_id, base.device)
        states_TH = _states(base, laid)
        last = torch.tensor([laid.flat(row, len(ids) - 1) for row, ids in enumerate(laid.rows)])
        # the head is float32 even where the rest computes in 16 bits
        with torch.autocast(states_TH.device.type, enabled=False):
            chosen_P, rejected_P = base.get_submodule("v_head")(
                states_TH[last.to(base.device)].float()
            ).chunk(2)
        values = {"chosen": chosen_P.detach(), "rejected": rejected_P.detach()}
        extra_P = None
        if self.settings.alpha:
            both = self.settings.regulariser.startswith("dpo") or not model.training
            wanted = len(rows) if both else len(examples)
            log_probs_B = _log_probs(base, states_TH, laid, _starts(examples)[:wanted])
            extra_P = self._regularisation(model, laid, examples, log_probs_B)
            if both:
                sides = log_probs_B.detach().chunk(2)
                values |= {"chosen_log_prob": sides[0], "rejected_log_prob": sides[1]}
        loss_P = grm_loss((chosen_P, rejected_P), extra_P, self.settings.alpha)
        return Outcome(loss_P.sum(), values)

    def judge(self, values: Mapping[str, torch.Tensor]) -> dict[str, float]:
        found = judge_pairs(values["chosen"], values["rejected"])
        if "chosen_log_prob" in values:
            won = values["chosen_log_prob"] > values["rejected_log_prob"]
            found["eval/log_prob_accuracy"] = float(won.float().mean())
        return found

    def _regularisation(
        self,
        model: nn.Module,
        laid: LaidOut,
        examples: Sequence[Example],
        log_probs_B: torch.Tensor,
    ) -> torch.Tensor:
        kind, beta, pairs = self.settings.regulariser, self.settings.beta, len(examples)
        if kind.startswith("sft"):
            return sft(log_probs_B[:pairs], beta, log_sigmoid=kind == "sft")
        reference = None
        if kind == "dpo":
            reference = self._of_reference(model, laid, _starts(examples)).split(pairs)
        return dpo(log_probs_B[:pairs], log_probs_B[pairs:], beta, reference)  # type: ignore[arg-type]

    @torch.no_grad()
    def _of_reference(self, model: nn.Module, laid: LaidOut, starts: Sequence[int]) -> torch.Tensor:
        """Return the log-probabilities by the model that training began with."""
        other = base_of(self.reference or model)
        was_training = other.training
        other.eval()
        with (
            nullcontext()
            if self.reference is not None
            else cast("PeftModel", model).disable_adapter()
        ):
            found = _log_probs(other, _states(other, laid), laid, starts)
        other.train(was_training)
        return found


def logits_of(base: PreTrainedModel, states_NH: torch.Tensor) -> torch.Tensor:
    """Return logits (N, V) from last hidden states, soft-capped where the config says (Gemma 2)."""
    head = base.get_output_embeddings()
    assert head is not None, "a language model has an output embedding"
    logits_NV = head(states_NH).float()
    cap = getattr(base.config.get_text_config(), "final_logit_softcapping", None)
    return logits_NV if cap is None else cap * torch.tanh(logits_NV / cap)


def _states(base: PreTrainedModel, laid: LaidOut) -> torch.Tensor:
    """Return the last hidden states (T, H) of all tokens, rows end to end."""
    with laid.running():
        backbone = getattr(base, base.base_model_prefix)
        return backbone(**laid.inputs, use_cache=False).last_hidden_state.flatten(0, 1)


def _starts(examples: Sequence[Example]) -> list[int]:
    """Return the first tokens of the responses: of the chosen sides, then of the rejected ones."""
    return [one.loss_from[side] for side in (0, 1) for one in examples]


def _log_probs(
    base: PreTrainedModel, states_TH: torch.Tensor, laid: LaidOut, starts: Sequence[int]
) -> torch.Tensor:
    """Return ℓ of the first len(starts) rows, the sum of log-probabilities from `starts` on.

    It is in float32. Logits are computed for responses alone, some positions at a time, and again
    in the backward pass: those of one long pair over a vocabulary of 128,000 are gigabytes.
    """
    places, targets, owners = [], [], []
    for row, start in enumerate(starts):
        ids = laid.rows[row]
        places += [laid.flat(row, position - 1) for position in range(start, len(ids))]
        targets += ids[start:].tolist()
        owners += [row] * (len(ids) - start)
    index = torch.tensor([places, targets, owners], device=states_TH.device)

    def part(where: torch.Tensor, target: torch.Tensor, owner: torch.Tensor) -> torch.Tensor:
        return summed_log_probs(logits_of(base, states_TH[where]), target, owner, len(starts))

    total_B = torch.zeros(len(starts), device=states_TH.device)
    for chunk in index.split(_LOGITS, dim=1):
        total_B = total_B + checkpoint(part, *chunk, use_reentrant=False)  # type: ignore[operator]
    return total_B
