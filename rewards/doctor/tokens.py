"""Check what the model reads: its tokens, the pad token, and its limits.

`check_tokens` shows the ids that reach the model and checks the special ones. `check_pad` compares
the pad token of tokenizer and config, because other libraries find the end of a row by it and may
give other scores. `check_limits` reports precision, maximal length and vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from rewards.doctor.finding import Finding, note, ok, wrong
from rewards.doctor.model_under_test import ModelUnderTest
from rewards.doctor.samples import SAMPLES, TWO_TURNS, talk
from rewards.encoding.bos import BOS_COUNT
from rewards.inference.transformers import TransformersEngine

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "both_ends",
    "check_limits",
    "check_pad",
    "check_tokens",
    "precision",
    "shown",
]

_ENDS = 8


def check_tokens(model: ModelUnderTest) -> Iterator[Finding]:
    """Check text, tokens, BOS, last token and typed special tokens of a two-turn conversation."""
    ids = model.ids(TWO_TURNS)
    yield _text(model)
    yield ok("tokens", f"{len(ids)}: {both_ends(model.tokenizer, ids)}", count=len(ids))
    yield from _bos(model, ids)
    yield _last(model, ids)
    yield from _literal(model, ids)


def shown(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return token strings with their ids; a blank is shown as ␣, a line break as ⏎."""
    tokens = tokenizer.convert_ids_to_tokens(list(ids))
    return "  ".join(f"{_visible(token)}·{id}" for token, id in zip(tokens, ids, strict=True))


def _visible(token: str | None) -> str:
    if token is None:
        return "(unknown)"
    # byte-level BPE writes a blank as Ġ and a line break as Ċ, sentencepiece a blank as ▁
    for written, sign in (("Ġ", "␣"), ("▁", "␣"), (" ", "␣"), ("Ċ", "⏎"), ("\n", "⏎")):
        token = token.replace(written, sign)
    return token


def both_ends(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    """Return the first and the last eight tokens as `shown` does, or all where they are few."""
    if len(ids) <= 2 * _ENDS:
        return shown(tokenizer, ids)
    return f"{shown(tokenizer, ids[:_ENDS])}  …  {shown(tokenizer, ids[-_ENDS:])}"


def _text(model: ModelUnderTest) -> Finding:
    encoder = model.encoder
    text = repr(model.text(TWO_TURNS))
    if encoder.format != "plain":
        return ok("text", f"format {encoder.format}: {text}")
    return note(
        "text",
        f"format plain, the contents one after the other: {text}",
        "if it was trained on marked turns, say so: a chat template, or --format hh_hash, beaver …",
    )


def _bos(model: ModelUnderTest, ids: Sequence[int]) -> Iterator[Finding]:
    bos_id, policy = model.tokenizer.bos_token_id, model.encoder.bos
    if bos_id is None:
        yield ok("BOS", "none: the tokenizer has none")
        return
    written, added = _as_written(model, bos_id)
    front = _leading(ids, bos_id)
    token = _visible(model.tokenizer.convert_ids_to_tokens(bos_id))
    detail = f"{front} × {token}·{bos_id} (bos={policy}); the text has {written}"
    if added > written:
        detail += f", the tokenizer would make it {added} by itself"
    if written > max(1, BOS_COUNT[policy]) and model.published is None:
        fix = "use bos double" if written == 2 else "fix the template"
        yield wrong("BOS", f"{detail}: the template's own form is not what is scored", fix)
    elif front < min(1, max(written, added)):
        yield note("BOS", detail, "use bos single, unless the model was trained without")
    elif front > max(written, added) and model.published is None:
        yield note(
            "BOS", f"{detail}: more than either writes", "use bos single, unless it is meant"
        )
    else:
        yield ok("BOS", detail, count=front)
    inside = sum(id == bos_id for id in ids[front:])
    if inside and bos_id != model.tokenizer.eos_token_id:
        yield note("BOS inside", f"{inside} more {token} stand within the conversation")


def _as_written(model: ModelUnderTest, bos_id: int) -> tuple[int, int]:
    """Return the number of leading BOS in the rendered text, tokenised without special tokens of
    the tokenizer's own and with them."""
    text = model.text(TWO_TURNS)
    rows = [
        model.tokenizer(text, add_special_tokens=special)["input_ids"] for special in (False, True)
    ]
    return _leading(rows[0], bos_id), _leading(rows[1], bos_id)


def _leading(ids: Sequence[int], bos_id: int) -> int:
    return next((n for n, id in enumerate(ids) if id != bos_id), len(ids))


def _last(model: ModelUnderTest, ids: Sequence[int]) -> Finding:
    last = ids[-1]
    token = shown(model.tokenizer, [last])
    closing = model.ids(talk("a", "b"))[-1] == last == model.ids(talk("a", "c"))[-1]
    eos = model.config.get("eos_token_id")
    known = {model.tokenizer.eos_token_id, *(eos if isinstance(eos, list) else [eos])}
    if last in known:
        return ok("last token", f"{token}, EOS")
    if last in model.tokenizer.added_tokens_decoder:
        return ok("last token", f"{token}, a special token that closes the response")
    if closing:
        return ok("last token", f"{token}, the same after every response")
    detail = f"{token}, the response's own last token: nothing closes it"
    if model.encoder.format == "chat":
        return note("last token", detail, "check that the template closes the assistant's turn")
    return ok("last token", f"{detail}, as format {model.encoder.format} has it")


def _literal(model: ModelUnderTest, ids: Sequence[int]) -> Iterator[Finding]:
    """Report special tokens that a user can type; those of the template first."""
    known = {id for id, one in model.tokenizer.added_tokens_decoder.items() if one.special}
    special = sorted(known | set(model.tokenizer.all_special_ids), key=lambda id: id not in ids)
    tokens = model.tokenizer.convert_ids_to_tokens(special)
    text = " x ".join(["", *tokens, ""])
    found = set(model.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"])
    parsed = [token for id, token in zip(special, tokens, strict=True) if id in found]
    if parsed:
        some = ", ".join(parsed[:3]) + (f" and {len(parsed) - 3} more" if len(parsed) > 3 else "")
        yield note(
            "typed specials",
            f"{some}, typed in a message, become the special token itself, as in most tokenizers: "
            "a response can forge the end of a turn",
        )


_UNAFFECTED = "here the row's own last token is scored, whatever pads"
_MEASURED = 4


def check_pad(model: ModelUnderTest) -> Iterator[Finding]:
    """Compare the pad token of the tokenizer with that of the config, and with EOS."""
    own, config = model.tokenizer.pad_token_id, model.config.get("pad_token_id")
    said = f"tokenizer {_named(model, own)}, config {_named(model, config)}"
    trouble = _trouble(model, own, config)
    if trouble:
        yield note("pad", f"{said}: {trouble}; {_UNAFFECTED}")
    elif own == model.tokenizer.eos_token_id and own is not None:
        yield note("pad", f"{said}: pad is EOS; {_elsewhere(model, own)}")
    else:
        yield ok("pad", said)


def _named(model: ModelUnderTest, id: object) -> str:
    if id is None:
        return "none"
    if not isinstance(id, int) or not 0 <= id < len(model.tokenizer.get_vocab()):
        return f"{id}, which is no token"
    return shown(model.tokenizer, [id])


def _trouble(model: ModelUnderTest, own: int | None, config: object) -> str:
    if config is None:
        return "transformers' own classifier refuses batches without a pad id in the config"
    if not isinstance(config, int) or not 0 <= config < model.encoder.vocabulary:
        return "the config's pad id lies outside of the embedding"
    if own is None:
        return "a tokenizer without a pad token cannot make a batch elsewhere"
    if own != config:
        return "in a padded batch, transformers' own classifier would score a padding token"
    return ""


def _elsewhere(model: ModelUnderTest, pad: int) -> str:
    """Return in words what transformers' pooling would change.

    That pooling scores the right-most token that is not the pad token.
    """
    if model.reward.kind != "classifier" or not isinstance(model.engine, TransformersEngine):
        return f"poolings that search for it stop early; {_UNAFFECTED}"
    rows = [model.ids(SAMPLES[i]) for i in model.readable(SAMPLES).kept[:_MEASURED]]
    ends = [max((n for n, id in enumerate(ids) if id != pad), default=0) for ids in rows]
    if all(end == len(ids) - 1 for ids, end in zip(rows, ends, strict=True)):
        return "no conversation ends with it, so transformers' own classifier scores the same token"
    differences = [
        abs(_score_at(model, ids, end) - _score_at(model, ids, len(ids) - 1))
        for ids, end in zip(rows, ends, strict=True)
    ]
    return (
        f"transformers' own classifier would score the token before it, "
        f"up to {np.max(differences):.2g} away ({len(rows)} conversations); {_UNAFFECTED}"
    )


def _score_at(model: ModelUnderTest, ids: list[int], position: int) -> float:
    engine = model.engine
    assert isinstance(engine, TransformersEngine)
    states = engine.backbone.states([ids], [[position]])
    return float(engine.head.outputs(states)["score"][0])


_FIRST = 3


def check_limits(model: ModelUnderTest) -> Iterator[Finding]:
    """Report precision, maximal length and vocabulary."""
    saved = model.config.get("dtype") or model.config.get("torch_dtype")
    yield precision(model.reward.describe(), saved)
    yield _length(model)
    yield _vocabulary(model)


def precision(said: Mapping[str, object], saved: str | None = None) -> Finding:
    """Report dtype, device, engine and layout, as a model's `describe` gives them in `said`.

    `saved` is the dtype in its config.json.
    """
    where = f"{said.get('dtype')} on {said.get('device')}, {said.get('engine')} engine"
    layout = f", {said['layout']} rows" if "layout" in said else ""
    detail = f"{where}{layout}{f'; saved as {saved}' if saved else ''}"
    if saved == "float32" and said.get("dtype") in ("float16", "bfloat16"):
        return note("dtype", f"{detail}: rounded", "use --dtype float32 for the saved precision")
    return ok("dtype", detail)


def _length(model: ModelUnderTest) -> Finding:
    limit, side = model.encoder.max_length, model.encoder.truncation_side
    positions = model.config.get("max_position_embeddings") or model.config.get("n_positions")
    known = f"the model has {positions} positions" if positions else "the config names no limit"
    if limit is None:
        return note("max length", f"none; {known}", "set --max-length")
    detail = f"{limit} tokens, cut on the {side}; {known}"
    if positions and limit > positions:
        return wrong("max length", detail, f"use --max-length {positions} or less")
    return ok("max length", detail, max_length=limit)


def _vocabulary(model: ModelUnderTest) -> Finding:
    rows, tokenizer = model.encoder.vocabulary, model.tokenizer
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
