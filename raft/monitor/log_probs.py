"""Log-probabilities of given tokens by a policy, which is loaded for this and freed after.

They do not come from the generation engine: those of both policies of a comparison must be computed
by the same code, or their difference would contain the rounding of two programs.
"""

from __future__ import annotations

import gc
import inspect
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rollout.engines.base import TOY_FILE
from rollout.engines.causal_lm import load_causal_lm
from rollout.engines.environment import exempt_from_collection

if TYPE_CHECKING:
    import torch

__all__ = ["MOST_LOGITS", "MOST_TOKENS", "Row", "import_what_loads", "log_probs"]

# of a forward pass: tokens with padding (on a CPU, few enough to stay in its caches), and logits
MOST_TOKENS = {"cuda": 16_384, "cpu": 2048}
MOST_LOGITS = {"cuda": 2**30, "cpu": 2**26}
_POSITIONS_AT_A_TIME = 1024  # of one row, made float32


@dataclass(frozen=True, slots=True)
class Row:
    """A text of T tokens; `first` (≥ 1) is the first token whose probability is wanted.

    `temperature` divides the logits, as it does where a sampler draws.
    """

    ids: tuple[int, ...]
    first: int = 1
    temperature: float = 1.0


def log_probs(model: str, rows: Sequence[Row], dtype: str = "auto") -> list[np.ndarray]:
    """Return log p(token t | tokens before t) in nats for t = first … T−1 of each row, float64.

    Args:
        model: a folder or hub name; a toy policy's folder needs no torch.
        dtype: of the weights; "auto" is bfloat16 on a GPU and float32 elsewhere.
    """
    if (Path(model) / TOY_FILE).exists():
        return _toy(model, rows)
    return _transformers(model, rows, dtype)


def import_what_loads(model: str) -> None:
    """Import transformers now, while other workers start: it takes seconds."""
    if not (Path(model) / TOY_FILE).exists():
        from transformers import AutoModelForCausalLM  # noqa: F401

        exempt_from_collection()


def _toy(model: str, rows: Sequence[Row]) -> list[np.ndarray]:
    from rollout.engines.toy import read_toy

    logits_V = read_toy(model)[1]
    found = []
    for row in rows:
        scaled_V = logits_V / row.temperature
        log_p_V = scaled_V - np.logaddexp.reduce(scaled_V)
        found.append(log_p_V[list(row.ids[row.first :])])
    return found


def _transformers(name: str, rows: Sequence[Row], dtype: str) -> list[np.ndarray]:
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    wanted = ("bfloat16" if device == "cuda" else "float32") if dtype == "auto" else dtype
    with torch.device(device):  # buffers that are not in files are made there, not on the CPU
        model = load_causal_lm(name, getattr(torch, wanted))
    model.to(device).eval()
    vocabulary = model.config.get_text_config().vocab_size
    found: dict[int, np.ndarray] = {}
    with torch.inference_mode():
        for batch in _batches(rows, min(MOST_TOKENS[device], MOST_LOGITS[device] // vocabulary)):
            found |= _forward(model, rows, batch)
    # the GPU belongs to others between two calls
    del model
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
    return [found[number] for number in range(len(rows))]


def _batches(rows: Sequence[Row], most: int) -> Iterator[list[int]]:
    """Yield batches of row numbers, of `most` tokens with padding or of one row.

    Rows of similar length share a batch, to save padding. The longest come first, so that memory
    runs out in the first batch or never.
    """
    batch: list[int] = []
    for number in sorted(range(len(rows)), key=lambda at: -len(rows[at].ids)):
        if batch and len(rows[batch[0]].ids) * (len(batch) + 1) > most:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _forward(model: Any, rows: Sequence[Row], batch: Sequence[int]) -> dict[int, np.ndarray]:
    import torch

    width = max(len(rows[number].ids) for number in batch)
    # padded on the right, which a causal model does not attend to: no mask, so attention is faster
    ids_BT = torch.zeros((len(batch), width), dtype=torch.long)
    for at, number in enumerate(batch):
        ids_BT[at, : len(rows[number].ids)] = torch.tensor(rows[number].ids)
    # prompts need no logits, where the model lets us say so
    needed = width - min(rows[number].first for number in batch) + 1
    asked = "logits_to_keep" in inspect.signature(model.forward).parameters
    logits_BTV = model(
        input_ids=ids_BT.to(model.device),
        **({"logits_to_keep": needed} if asked else {}),
    ).logits
    before = width - logits_BTV.shape[1]
    return {
        number: _of_row(logits_BTV[at, rows[number].first - 1 - before :], rows[number])
        for at, number in enumerate(batch)
    }


def _of_row(logits_TV: torch.Tensor, row: Row) -> np.ndarray:
    """Return the log-probabilities of a row's tokens from `first` on, float64.

    `logits_TV` begins with the position that predicts the first of them; it may end after the last.
    """
    import torch

    targets_T = torch.tensor(row.ids[row.first :], device=logits_TV.device)
    parts = []
    for start in range(0, len(targets_T), _POSITIONS_AT_A_TIME):
        wanted = targets_T[start : start + _POSITIONS_AT_A_TIME]
        scaled = logits_TV[start : start + len(wanted)].float() / row.temperature
        parts.append(scaled.log_softmax(-1).gather(-1, wanted[:, None])[:, 0])
    return torch.cat(parts).double().cpu().numpy() if parts else np.zeros(0)
