"""Extract what ArmoRM's two stages are computed from: states of a frozen transformer, in files."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch

from rewards.checkpoints.hub import local_folder
from rewards.checkpoints.loading import (
    load_config,
    load_tokenizer,
    make_encoder,
    pad_id,
    resolve_device,
)
from rewards.checkpoints.settings import ModelSettings
from rewards.combine.debias import PUBLISHED_THRESHOLD
from rewards.data.pair import Pair
from rewards.data.rated import Rated
from rewards.encoding.encoder import Encoder
from rewards.encoding.formats import Turns
from rewards.inference.backbone import Backbone
from rewards.models.armorm import HEADS, gated_tokenizer
from rewards.models.armorm_head import Gate, gate_of
from rewards.models.transformer import dtype_as_stored, load_transformer, stored_dtype
from rewards.training.examples import SIDES, is_read
from rewards.training.features import (
    FeatureType,
    Positions,
    StateReader,
    States,
    extract,
    last_token,
)
from rewards.training.ridge import PUBLISHED_ALPHAS
from rollout.data.bad_rows import OnBadRow

__all__ = [
    "ArmoRMSettings", "Features", "Frozen", "are_extracted", "load_frozen", "load_reading",
    "load_states", "readable",
]  # fmt: skip

log = logging.getLogger("rewards")

_RATED, _PAIRS, _HELD_OUT = "rated.npy", "pairs.npy", "held_out.npy"

# heads that the starting model may have, and that ArmoRM does not use
_OTHER_HEADS = (*HEADS, "score.", "v_head.")


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmoRMSettings:
    """Settings of the regression, the penalties and the features; defaults as published.

    Args:
        attributes: names and order of the rewards; None: the published 19 when all labels are
            among them, else the labels' own in order of appearance.
        leave_out_unlabelled: skip attributes without any label, or with one value alone.
        verbosity: the attribute whose influence is taken out of the others; None: no penalties.
        threshold: signed rank correlation with verbosity that a penalty must reach.
        max_length: longer conversations, and pairs with one, are skipped and counted; None: what
            the model can take.
        feature_dtype: of the files; float16 holds any bfloat16 state but the tiniest.
        chunk_rows: rows between which a killed extraction can continue.
        on_bad_row: "skip" counts and skips conversations that the chat template refuses.
    """

    attributes: Sequence[str] | None = None
    leave_out_unlabelled: bool = False
    alphas: Sequence[float] = PUBLISHED_ALPHAS
    validation_share: float = 0.2
    verbosity: str | None = "helpsteer-verbosity"
    threshold: float = PUBLISHED_THRESHOLD
    max_length: int | None = None
    dtype: str | None = None
    device: str | None = None
    batch_tokens: int | None = None
    feature_dtype: FeatureType = "float32"
    chunk_rows: int = 512
    on_bad_row: OnBadRow = "stop"
    seed: int = 0


@dataclass(frozen=True)
class Reading:
    """How the starting model reads. Conversations of more than `longest` tokens are skipped."""

    encoder: Encoder
    gate: Gate
    longest: int | None


@dataclass(frozen=True)
class Frozen:
    """The starting model without its head; `file_dtype` is that of its files."""

    backbone: Backbone
    reading: Reading
    file_dtype: torch.dtype | None

    @property
    def device(self) -> str:
        return str(self.backbone.device)


def load_reading(base: str | Path, settings: ArmoRMSettings) -> Reading:
    """Return how the starting model reads, which is how `load_armorm` will read.

    Raises InputError without Llama 3's tokenizer and template.
    """
    folder, name = local_folder(base), str(base)
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    gate = gate_of(tokenizer, name)
    tokenizer = gated_tokenizer(tokenizer, gate, "chat", name)
    vocabulary = config.get_text_config().vocab_size
    reading = ModelSettings(format="chat", bos="single", max_length=settings.max_length)
    encoder = make_encoder(tokenizer, config, reading, name=name, vocabulary=vocabulary)
    return Reading(replace(encoder, max_length=None), gate, encoder.max_length)


def load_frozen(base: str | Path, settings: ArmoRMSettings) -> Frozen:
    """Load the parts that `load_armorm` will load again. Raises InputError for a missing tensor."""
    folder, name = local_folder(base), str(base)
    reading, config = load_reading(base, settings), load_config(folder)
    place = resolve_device(settings.device)
    dtype = dtype_as_stored(folder, settings.dtype, config, place)
    transformer = load_transformer(folder, config, dtype, place, heads=_OTHER_HEADS)
    pad = pad_id(config, reading.encoder.tokenizer, config.get_text_config().vocab_size)
    return Frozen(
        Backbone(transformer, pad_id=pad, name=name),
        reading,
        stored_dtype(folder) or (config.dtype if isinstance(config.dtype, torch.dtype) else None),
    )


def load_states(base: str | Path, settings: ArmoRMSettings) -> StateReader:
    """Load the starting model alone, as a worker needs it, and return a reader of its states."""
    return StateReader(load_frozen(base, settings).backbone, settings.batch_tokens)


@dataclass(frozen=True)
class Features:
    """The states to extract: by which reader, how conversations are read, and into which folder."""

    reader: States
    reading: Reading
    folder: Path
    settings: ArmoRMSettings

    def of_all(
        self, rated: Sequence[Rated], pairs: Sequence[Pair], held_out: Sequence[Pair]
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """Return the states of rated conversations, of pairs, and of held-out pairs or None."""
        return (
            self.of_rated(rated),
            self.of_pairs(pairs, _PAIRS),
            self.of_pairs(held_out, _HELD_OUT) if held_out else None,
        )

    def of_rated(self, rated: Sequence[Rated]) -> np.ndarray:
        """Return the states (N, 1, H) of N rated conversations: at the last token."""

        def name(row: int) -> str:
            return f"rated row {rated[row].id or row!r}"

        rows = (one.conversation for one in rated)
        return self._extract(rows, _RATED, last_token, 1, name)

    def of_pairs(self, pairs: Sequence[Pair], file: str) -> np.ndarray:
        """Return the states (2P, 2, H) of P pairs: at the end of the prompt and at the last token.

        Of each pair the chosen side comes first, then the rejected one.
        """

        def name(row: int) -> str:
            return f"pair {pairs[row // 2].id!r} ({('chosen', 'rejected')[row % 2]})"

        def positions(ids: Sequence[int], name: str) -> Sequence[int]:
            return (self.reading.gate.find(ids, name), len(ids) - 1)

        rows = (pair.conversation(side) for pair in pairs for side in ("chosen", "rejected"))
        return self._extract(rows, file, positions, 2, name)

    def _extract(
        self,
        rows: Iterable[Turns],
        file: str,
        positions: Positions,
        states: int,
        name: Callable[[int], str],
    ) -> np.ndarray:
        reading, settings = self.reading, self.settings
        return extract(
            self.reader,
            reading.encoder,
            positions,
            rows,
            self.folder / file,
            states=states,
            dtype=settings.feature_dtype,
            chunk_rows=settings.chunk_rows,
            longest=reading.longest,
            name=name,
        )


def are_extracted(folder: Path, held_out: Sequence[Pair]) -> bool:
    """Return whether the files of all states are whole."""
    files = (_RATED, _PAIRS, *((_HELD_OUT,) if held_out else ()))
    return all((folder / file).exists() for file in files)


def readable(
    encoder: Encoder,
    on_bad_row: OnBadRow,
    rated: Sequence[Rated],
    pairs: Sequence[Pair],
    held_out: Sequence[Pair],
) -> tuple[Sequence[Rated], Sequence[Pair], Sequence[Pair]]:
    """Return all data, or with "skip" what the chat template accepts; the log counts the others."""
    if on_bad_row == "stop":
        return rated, pairs, held_out

    def sides(pair: Pair) -> list[Turns]:
        return [pair.conversation(side) for side in SIDES]

    return (
        _kept(encoder, rated, lambda one: [one.conversation], "rated responses"),
        _kept(encoder, pairs, sides, "training pairs"),
        _kept(encoder, held_out, sides, "held-out pairs"),
    )


_One = TypeVar("_One", Rated, Pair)


def _kept(
    encoder: Encoder,
    several: Sequence[_One],
    conversations: Callable[[_One], Sequence[Turns]],
    what: str,
) -> list[_One]:
    dropped: Counter[str] = Counter()
    kept = [one for one in several if is_read(encoder, conversations(one), dropped)]
    for reason, count in dropped.items():
        log.warning("%d of %d %s are left out: %s", count, len(several), what, reason)
    return kept
