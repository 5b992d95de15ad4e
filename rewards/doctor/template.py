"""Check what a chat template does to a conversation: header, date, dropped or trimmed contents."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime
from itertools import takewhile

from rewards.checkpoints.loading import load_tokenizer
from rewards.doctor.finding import Finding, note, ok, wrong
from rewards.doctor.model_under_test import ModelUnderTest
from rewards.doctor.samples import talk
from rewards.encoding.formats import Turns
from rollout.types import InputError, Message

__all__ = ["check_template", "trailing_header"]

# contents that no template contains and no trimming changes
_MARKS = ("Qalphaq", "Qbravoq", "Qcharlieq", "Qdeltaq")


def check_template(model: ModelUnderTest) -> Iterator[Finding]:
    """Check header, date and contents of the chat template, where the format is "chat".

    The other formats are our own, and yield nothing.
    """
    if model.encoder.format != "chat":
        return
    text = model.text(talk(*_MARKS))
    lost = [mark for mark in _MARKS if mark not in text]
    if lost:
        yield wrong(
            "template",
            f"{len(lost)} of 4 turns do not come out of the chat template as they went in",
            "replace the tokenizer's chat template by the one the model was trained with",
        )
        return
    yield from _header(model, text)
    yield from _date(model)
    yield from _contents(model)


def trailing_header(text: str) -> str:
    """Return what follows the last response in `text`, where it ends with another's header.

    `text` is a rendered conversation of the four marks. What follows its last response begins as
    what follows an earlier one: with the closing of the message. When there is more, and the same
    stands before a response, that is the header of another response. Return "" otherwise.
    """
    _, _, after = text.partition(_MARKS[1])
    after_earlier, _, after = after.partition(_MARKS[2])
    before_answer, _, after_last = after.partition(_MARKS[3])
    pairs = zip(after_last, after_earlier, strict=False)
    shared = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    rest = after_last[shared:]
    return after_last if rest.strip() and before_answer.endswith(rest) else ""


def _header(model: ModelUnderTest, text: str) -> Iterator[Finding]:
    header = trailing_header(text)
    removed = "" if header else _without_header(model)
    if removed:
        yield note(
            "response end",
            f"the checkpoint's template writes {removed!r} after the response, ending with the "
            "header of another answer; it is removed here",
        )
        return
    if not header:
        yield ok("response end", "no generation header after the response")
        return
    detail = f"after the response comes {header!r}, which ends with the header of another answer"
    if model.published is not None and model.reward.kind != "armorm":
        yield note("response end", f"{detail}; {model.published} was made with its own template")
        return
    reads = "gate and score read it" if model.reward.kind == "armorm" else "it is what is scored"
    yield wrong(
        "response end",
        f"{detail}: {reads}",
        "let the template write it only under {% if add_generation_prompt %}, unless the model "
        "was trained so",
    )


def _without_header(model: ModelUnderTest) -> str:
    """Return what the checkpoint's own template writes after the last response, header included.

    Return "" where that does not end with a header; the loader removes such a header.
    """
    conversation = [{"role": m["role"], "content": m["content"]} for m in talk(*_MARKS)]
    own = load_tokenizer(model.folder)
    if not own.chat_template:
        return ""
    return trailing_header(str(own.apply_chat_template(conversation, tokenize=False)))


def _date(model: ModelUnderTest) -> Iterator[Finding]:
    days = (datetime(2021, 3, 4), datetime(2033, 11, 22))
    conversation = talk("a", "b")
    first, second = (_rendered(model, conversation, day) for day in days)
    if first == second:
        return
    yield note(
        "date",
        "the template prints the day's date; it is pinned to "
        "26 Jul 2024 here, so that scores do not change with the day",
    )


def _rendered(model: ModelUnderTest, conversation: Turns, day: datetime) -> str:
    return model.tokenizer.apply_chat_template(
        [dict(message) for message in conversation],
        tokenize=False,
        add_generation_prompt=False,
        date_string=day.strftime("%d %b %Y"),
        strftime_now=day.strftime,
    )


def _contents(model: ModelUnderTest) -> Iterator[Finding]:
    changes = [
        change
        for change in (_trims(model), _thoughts(model), _system(model), _repeated(model))
        if change
    ]
    if changes:
        yield note("contents", f"the template {'; '.join(changes)}")
    else:
        yield ok("contents", "reach the model letter for letter, system messages too")


def _trims(model: ModelUnderTest) -> str:
    text = _try(model, talk("a", f"  {_MARKS[0]}\n\n"))
    return "" if text is None or f"  {_MARKS[0]}\n\n" in text else "trims blanks around a response"


def _thoughts(model: ModelUnderTest) -> str:
    text = _try(model, talk("a", f"<think>{_MARKS[0]}</think>{_MARKS[1]}"))
    return "drops <think>…</think> from a response" if text and _MARKS[0] not in text else ""


def _system(model: ModelUnderTest) -> str:
    text = _try(model, [Message(role="system", content=_MARKS[0]), *talk("a", "b")])
    if text is None:
        return "refuses system messages"
    return "" if _MARKS[0] in text else "drops system messages"


def _repeated(model: ModelUnderTest) -> str:
    turns = [*talk("a"), *talk("a", "b")]
    return "refuses two turns of one role in a row" if _try(model, turns) is None else ""


def _try(model: ModelUnderTest, conversation: Sequence[Message]) -> str | None:
    try:
        return model.text(conversation)
    except InputError:
        return None
