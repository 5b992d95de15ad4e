"""The pad token, which other libraries find a row's end by. Ours do not; scores may differ."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from rewards.doctor.finding import Finding, note, ok
from rewards.doctor.samples import SAMPLES
from rewards.doctor.subject import Subject
from rewards.doctor.tokens import shown

__all__ = ["check_pad"]

_UNAFFECTED = "here the row's own last token is scored, whatever pads"
_MEASURED = 4


def check_pad(subject: Subject) -> Iterator[Finding]:
    """Tokenizer against config, pad against EOS."""
    own, config = subject.tokenizer.pad_token_id, subject.config.get("pad_token_id")
    said = f"tokenizer {_named(subject, own)}, config {_named(subject, config)}"
    trouble = _trouble(subject, own, config)
    if trouble:
        yield note("pad", f"{said}: {trouble}; {_UNAFFECTED}")
    elif own == subject.tokenizer.eos_token_id and own is not None:
        yield note("pad", f"{said}: pad is EOS; {_elsewhere(subject, own)}")
    else:
        yield ok("pad", said)


def _named(subject: Subject, id: Any) -> str:
    if id is None:
        return "none"
    if not isinstance(id, int) or not 0 <= id < len(subject.tokenizer.get_vocab()):
        return f"{id}, which is no token"
    return shown(subject.tokenizer, [id])


def _trouble(subject: Subject, own: int | None, config: Any) -> str:
    if config is None:
        return "transformers' own classifier refuses batches without a pad id in the config"
    if not isinstance(config, int) or not 0 <= config < subject.encoder.vocabulary:
        return "the config's pad id lies outside of the embedding"
    if own is None:
        return "a tokenizer without a pad token cannot make a batch elsewhere"
    if own != config:
        return "in a padded batch, transformers' own classifier would score a padding token"
    return ""


def _elsewhere(subject: Subject, pad: int) -> str:
    """What transformers' pooling, the right-most token that is not pad, would change."""
    if subject.reward.kind != "classifier" or not hasattr(subject.engine, "backbone"):
        return f"poolings that search for it stop early; {_UNAFFECTED}"
    rows = [subject.ids(SAMPLES[i]) for i in subject.readable(SAMPLES).kept[:_MEASURED]]
    ends = [max((n for n, id in enumerate(ids) if id != pad), default=0) for ids in rows]
    if all(end == len(ids) - 1 for ids, end in zip(rows, ends, strict=True)):
        return "no conversation ends with it, so transformers' own classifier scores the same token"
    differences = [
        abs(_score_at(subject, ids, end) - _score_at(subject, ids, len(ids) - 1))
        for ids, end in zip(rows, ends, strict=True)
    ]
    return (
        f"transformers' own classifier would score the token before it, "
        f"up to {np.max(differences):.2g} away ({len(rows)} conversations); {_UNAFFECTED}"
    )


def _score_at(subject: Subject, ids: list[int], position: int) -> float:
    engine: Any = subject.engine
    states = engine.backbone.states([ids], [[position]])
    return float(engine.head.outputs(states)["score"][0])
