"""The tokens that really reach the model: shown, and the special ones among them checked."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from rewards.bos import BOS_COUNT
from rewards.doctor.finding import Finding, note, ok, wrong
from rewards.doctor.samples import TWO_TURNS, talk
from rewards.doctor.subject import Subject

__all__ = ["both_ends", "check_tokens", "shown"]

_ENDS = 8


def check_tokens(subject: Subject) -> Iterator[Finding]:
    """Text, tokens, BOS, last token and literal special tokens of a two-turn conversation."""
    ids = subject.ids(TWO_TURNS)
    yield _text(subject)
    yield ok("tokens", f"{len(ids)}: {both_ends(subject.tokenizer, ids)}", count=len(ids))
    yield from _bos(subject, ids)
    yield _last(subject, ids)
    yield from _literal(subject, ids)


def shown(tokenizer: Any, ids: Sequence[int]) -> str:
    """Token strings with their ids; a blank is shown as ␣, a line break as ⏎."""
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    return "  ".join(f"{_visible(token)}·{id}" for token, id in zip(tokens, ids, strict=True))


def _visible(token: str | None) -> str:
    if token is None:
        return "(unknown)"
    # byte-level BPE writes a blank as Ġ and a line break as Ċ, sentencepiece a blank as ▁
    for written, sign in (("Ġ", "␣"), ("▁", "␣"), (" ", "␣"), ("Ċ", "⏎"), ("\n", "⏎")):
        token = token.replace(written, sign)
    return token


def both_ends(tokenizer: Any, ids: Sequence[int]) -> str:
    """The first and last eight tokens, as `shown`."""
    if len(ids) <= 2 * _ENDS:
        return shown(tokenizer, ids)
    return f"{shown(tokenizer, ids[:_ENDS])}  …  {shown(tokenizer, ids[-_ENDS:])}"


def _text(subject: Subject) -> Finding:
    encoder = subject.encoder
    text = repr(subject.text(TWO_TURNS))
    if encoder.format != "plain":
        return ok("text", f"format {encoder.format}: {text}")
    return note(
        "text",
        f"format plain, the contents one after the other: {text}",
        "if the model was trained on marked turns, say so with --format hh or a chat template",
    )


def _bos(subject: Subject, ids: Sequence[int]) -> Iterator[Finding]:
    bos_id, policy = subject.tokenizer.bos_token_id, subject.encoder.bos
    if bos_id is None:
        yield ok("BOS", "none: the tokenizer has none")
        return
    written, added = _as_written(subject, bos_id)
    front = _leading(ids, bos_id)
    token = _visible(subject.tokenizer.convert_ids_to_tokens(bos_id))
    detail = f"{front} × {token}·{bos_id} (bos={policy}); the text has {written}"
    if added > written:
        detail += f", the tokenizer would make it {added} by itself"
    if written > max(1, BOS_COUNT[policy]) and subject.published is None:
        mend = "use bos double" if written == 2 else "mend the template"
        yield wrong("BOS", f"{detail}: the template's own form is not what is scored", mend)
    elif front < min(1, max(written, added)):
        yield note("BOS", detail, "use bos single, unless the model was trained without")
    elif front > max(written, added) and subject.published is None:
        yield note(
            "BOS", f"{detail}: more than either writes", "use bos single, unless it is meant"
        )
    else:
        yield ok("BOS", detail, count=front)
    inside = sum(id == bos_id for id in ids[front:])
    if inside and bos_id != subject.tokenizer.eos_token_id:
        yield note("BOS inside", f"{inside} more {token} stand within the conversation")


def _as_written(subject: Subject, bos_id: int) -> tuple[int, int]:
    """Leading BOS of the rendered text alone, and of the text tokenised with special tokens."""
    text = subject.text(TWO_TURNS)
    rows = [
        subject.tokenizer(text, add_special_tokens=special)["input_ids"]
        for special in (False, True)
    ]
    return _leading(rows[0], bos_id), _leading(rows[1], bos_id)


def _leading(ids: Sequence[int], bos_id: int) -> int:
    return next((n for n, id in enumerate(ids) if id != bos_id), len(ids))


def _last(subject: Subject, ids: Sequence[int]) -> Finding:
    last = ids[-1]
    token = shown(subject.tokenizer, [last])
    closing = subject.ids(talk("a", "b"))[-1] == last == subject.ids(talk("a", "c"))[-1]
    eos = subject.config.get("eos_token_id")
    known = {subject.tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
    if last in known:
        return ok("last token", f"{token}, EOS")
    if last in subject.tokenizer.added_tokens_decoder:
        return ok("last token", f"{token}, a special token that closes the response")
    if closing:
        return ok("last token", f"{token}, the same after every response")
    detail = f"{token}, the response's own last token: nothing closes it"
    if subject.encoder.format == "chat":
        return note("last token", detail, "check that the template closes the assistant's turn")
    return ok("last token", f"{detail}, as format {subject.encoder.format} has it")


def _literal(subject: Subject, ids: Sequence[int]) -> Iterator[Finding]:
    """Special tokens that a user can type; those of the template first."""
    known = {id for id, one in subject.tokenizer.added_tokens_decoder.items() if one.special}
    special = sorted(known | set(subject.tokenizer.all_special_ids), key=lambda id: id not in ids)
    tokens = subject.tokenizer.convert_ids_to_tokens(special)
    text = " x ".join(["", *tokens, ""])
    found = set(subject.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    parsed = [token for id, token in zip(special, tokens, strict=True) if id in found]
    if parsed:
        some = ", ".join(parsed[:3]) + (f" and {len(parsed) - 3} more" if len(parsed) > 3 else "")
        yield note(
            "typed specials",
            f"{some}, typed in a message, become the special token itself, as in most tokenizers: "
            "a response can forge the end of a turn",
        )
