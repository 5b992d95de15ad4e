"""What the model can take: precision, length, and ids of its vocabulary."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rewards.doctor.finding import Finding, note, ok, wrong
from rewards.doctor.subject import Subject

__all__ = ["check_limits", "precision"]

_FIRST = 3


def check_limits(subject: Subject) -> Iterator[Finding]:
    saved = subject.config.get("dtype") or subject.config.get("torch_dtype")
    yield precision(subject.reward.describe(), saved)
    yield _length(subject)
    yield _vocabulary(subject)


def precision(said: Mapping[str, Any], saved: str | None = None) -> Finding:
    """From a model's description of itself, and the dtype in its config."""
    where = f"{said.get('dtype')} on {said.get('device')}, {said.get('engine')} engine"
    layout = f", {said['layout']} rows" if "layout" in said else ""
    detail = f"{where}{layout}{f'; saved as {saved}' if saved else ''}"
    if saved == "float32" and said.get("dtype") in ("float16", "bfloat16"):
        return note("dtype", f"{detail}: rounded", "use --dtype float32 for the saved precision")
    return ok("dtype", detail)


def _length(subject: Subject) -> Finding:
    limit, side = subject.encoder.max_length, subject.encoder.truncation_side
    positions = subject.config.get("max_position_embeddings") or subject.config.get("n_positions")
    known = f"the model has {positions} positions" if positions else "the config names no limit"
    if limit is None:
        return note("max length", f"none; {known}", "set --max-length")
    detail = f"{limit} tokens, cut on the {side}; {known}"
    if positions and limit > positions:
        return wrong("max length", detail, f"use --max-length {positions} or less")
    return ok("max length", detail, max_length=limit)


def _vocabulary(subject: Subject) -> Finding:
    rows, tokenizer = subject.encoder.vocabulary, subject.tokenizer
    known = tokenizer.get_vocab()
    beyond = {token: id for token, id in known.items() if id >= rows}
    detail = f"the embedding has {rows} rows, the tokenizer {len(known)} tokens"
    if not beyond:
        return ok("vocabulary", detail)
    names = sorted(beyond, key=lambda token: beyond[token])
    some = ", ".join(f"{name}·{beyond[name]}" for name in names[:_FIRST])
    detail = f"{detail}: {len(beyond)} beyond it ({some}{', …' if len(names) > _FIRST else ''})"
    if names == [tokenizer.pad_token]:
        return note("vocabulary", f"{detail}; it only pads, and padding is never looked up here")
    return wrong(
        "vocabulary",
        f"{detail}: a text with one of them cannot be scored",
        "tokenizer and model do not belong together: take both from one folder",
    )
