"""The text and the token ids of one comparison, as RLHFlow's pair preference model reads it.

    [CONTEXT] {context} [RESPONSE A] {first} [RESPONSE B] {second} \\n

is the one user message of the model's own chat template, and the next token, "A" or "B", is the
verdict. This is the text on the card of RLHFlow/pair-preference-model-LLaMA3-8B, letter for letter,
with two differences: the assistant's header is asked for (the card relies on a chat template that
always writes it, and reads a meaningless token under any other), and dates in templates are fixed.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Any

from rewards.types import Comparison, RewardError
from rollout.text.chat import apply_chat_template
from rollout.types import InputError, Message

__all__ = ["LABELS", "PairPrompt", "pair_text", "plain_context", "takes_turns"]

log = logging.getLogger("rewards")

LABELS = ("A", "B")
MARKERS = ("[CONTEXT]", "[RESPONSE A]", "[RESPONSE B]")
_ROLES = ("user", "assistant")
# contents of probe messages, to find what the chat template writes around them
_QUESTION, _ANSWER = "QUESTION", "ANSWER"


def plain_context(prompt: Sequence[Message] | str) -> str:
    """Return the conversation so far, as the card's own template writes it.

    `\\n\\n<turn> user\\n U1\\n<turn> assistant\\n A1\\n<turn> user\\n U2\\n`; a plain text counts
    as one user turn. Raises `InputError` for messages with other keys than role and content, and
    unless user and assistant take turns, the user first and last: the original goes by odd and even
    places and ignores roles, so that it would show a system prompt as the user's words, and the
    user's as the assistant's.
    """
    turns = [Message(role="user", content=prompt)] if isinstance(prompt, str) else prompt
    if beside := sorted({key for turn in turns for key in turn} - {"role", "content"}):
        raise InputError("conversation", f"has {beside[0]}, which a pairwise judge does not read")
    if not takes_turns(turns):
        roles = [turn["role"] for turn in turns]
        raise InputError(
            "conversation",
            "a pairwise judge reads user and assistant in turn, the user first and last, and not "
            f"{', '.join(roles) or 'an empty conversation'}",
            "remove other turns",
        )
    # the second newline before the first turn alone: the card's template is read by jinja with
    # trim_blocks, which eats the first newline after each of its tags
    return "\n" + "".join(f"\n<turn> {turn['role']}\n {turn['content']}" for turn in turns) + "\n"


def takes_turns(prompt: Sequence[Message]) -> bool:
    """Return whether user and assistant take turns, the user first and last."""
    roles = [turn["role"] for turn in prompt]
    return len(roles) % 2 == 1 and all(role == _ROLES[at % 2] for at, role in enumerate(roles))


def pair_text(context: str, first: str, second: str) -> str:
    """Return the user message that asks for the verdict."""
    return f"[CONTEXT] {context} [RESPONSE A] {first} [RESPONSE B] {second} \n"


@dataclass
class PairPrompt:
    """How one judge reads comparisons.

    `vocabulary` is the number of rows of the model's embedding. Comparisons longer than
    `max_length` tokens (None: no limit, as in the original) lose the beginning of their context;
    responses and the assistant's header are never cut.

    `label_ids` are the tokens of A and B. `truncated` counts the comparisons cut so far, `marked`
    those with a response that holds one of the template's own marks or a special token: what
    follows such a mark may be taken for the other response.

    Every BOS is deleted from the rendered text, as in the original, and with it the same string in
    the user's own words. Raises `InputError` when the tokenizer does not fit.
    """

    tokenizer: Any
    vocabulary: int
    max_length: int | None = None
    label_ids: tuple[int, int] = field(init=False)
    truncated: int = field(default=0, init=False)
    marked: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if self.max_length is not None and self.max_length < 1:
            raise InputError(f"max_length={self.max_length}", "must be 1 or more")
        if not self.tokenizer.chat_template:
            raise InputError(
                "the judge's tokenizer",
                "has no chat template, and a pairwise judge needs its own",
                "put chat_template.jinja, or chat_template in tokenizer_config.json, in its folder",
            )
        self.label_ids = self._labels()
        self._asks = self._asks_for_header()
        self._ending = self._render(_QUESTION).rpartition(_QUESTION)[2]
        self._marks = _marks(self.tokenizer)

    def describe(self) -> dict[str, object]:
        """Return the settings that the ids depend on, for a run's records."""
        return {"format": "pairwise", "bos": "none", "max_length": self.max_length}

    def text(self, comparison: Comparison) -> str:
        """Return the text that the judge reads of a comparison in this order.

        Raises `InputError` for a prompt that `plain_context` or the chat template refuses.
        """
        context = plain_context(comparison.prompt)
        return self._text(context, comparison.first, comparison.second)

    def check(
        self, prompt: Sequence[Message] | str, responses: Sequence[str], *, length: bool
    ) -> None:
        """Refuse what `encode_both` would refuse of any two of the responses, before there is a
        model; with `length` also the two longest where they do not fit or have unknown ids.
        Raises as `encode_both` does."""
        context = plain_context(prompt)
        texts = [self._text(context, one, one) for one in responses]
        if not length or self.max_length is None or len(texts) < 2:
            return
        sizes = [len(ids) for ids in self._tokens(texts)]
        first, second = sorted(range(len(texts)), key=lambda k: -sizes[k])[:2]
        part = _Parts("the comparison", context, responses[first], responses[second])
        (ids,) = self._tokens([self._text(*part.texts)])
        self._fitted(ids, part)

    def encode_both(
        self, comparisons: Sequence[Comparison], names: Sequence[str]
    ) -> list[list[int]]:
        """Return the ids of N comparisons, 2N rows: all in the order given, then all swapped.

        `names` are for messages. Raises `InputError` for a prompt that does not fit the template,
        `RewardError` when the responses alone are too long, or a token is unknown to the model.
        """
        parts = [
            _Parts(name, _named(name, plain_context, one.prompt), one.first, one.second)
            for one, name in zip(comparisons, names, strict=True)
        ]
        self._note_marks(parts)
        parts += [part.swap() for part in parts]
        rows = self._tokens([_named(part.name, self._text, *part.texts) for part in parts])
        fitted = [self._fitted(ids, part) for ids, part in zip(rows, parts, strict=True)]
        self._note_cuts(rows, fitted)
        return fitted

    def _text(self, context: str, first: str, second: str) -> str:
        text = self._render(pair_text(context, first, second))
        if not text.endswith(self._ending):
            raise InputError(
                "the chat template",
                f"ends with {text[-len(self._ending) :]!r} where it should open the "
                f"assistant's turn with {self._ending!r}",
            )
        return text

    def _render(self, question: str, *, answer: str | None = None, asks: bool | None = None) -> str:
        """Return the rendered text of a user message, and of a response to it where one is given.

        BOS is removed. `asks`, by default what `_asks_for_header` found, asks for the header.
        """
        messages = [Message(role="user", content=question)]
        if answer is not None:
            messages.append(Message(role="assistant", content=answer))
        try:
            asks = self._asks if asks is None else asks
            text = apply_chat_template(self.tokenizer, messages, ask=asks and answer is None)
        except InputError as error:
            raise InputError("the judge's chat template", error.problem) from error
        bos = self.tokenizer.bos_token
        return text.replace(bos, "") if bos else text

    def _asks_for_header(self) -> bool:
        """Return whether the template has to be asked for the assistant's header to write it once.

        Llama 3's first template always writes the header, later ones when they are asked. Raises
        `InputError` for a template that does not write it.
        """
        plain, asked = self._render(_QUESTION, asks=False), self._render(_QUESTION, asks=True)
        if asked == plain:
            # the header is always there or never: where it is, a response follows at once
            answered = self._render(_QUESTION, answer=_ANSWER, asks=False)
            if answered.startswith(plain + _ANSWER):
                return True
        elif asked.startswith(plain):
            # some templates always write the header, and a second one when asked
            return not plain.endswith(asked.removeprefix(plain))
        raise InputError(
            "the judge's chat template",
            "does not open the assistant's turn with add_generation_prompt=True: it ends "
            f"with {asked[-40:]!r}",
        )

    def _labels(self) -> tuple[int, int]:
        rows = [self.tokenizer.encode(label, add_special_tokens=False) for label in LABELS]
        for label, ids in zip(LABELS, rows, strict=True):
            if len(ids) != 1 or not 0 <= ids[0] < self.vocabulary:
                raise InputError(
                    f"the label {label!r}",
                    f"must be one token of the judge's vocabulary, and is {ids}",
                )
        if rows[0] == rows[1]:
            raise InputError("the labels A and B", f"are the same token, {rows[0][0]}")
        return rows[0][0], rows[1][0]

    def _tokens(self, texts: Sequence[str]) -> list[list[int]]:
        if not texts:
            return []
        return self.tokenizer(
            list(texts), add_special_tokens=False, padding=False, truncation=False, verbose=False
        )["input_ids"]

    def _fitted(self, ids: list[int], part: _Parts) -> list[int]:
        if max(ids) >= self.vocabulary:
            raise RewardError(
                f"{part.name} has token id {max(ids)}, but the model knows {self.vocabulary} "
                "tokens: tokenizer and model do not belong together"
            )
        if self.max_length is None or len(ids) <= self.max_length:
            return ids
        # ids that stay the same without a context are those of template and responses
        (without,) = self._tokens([self._text("", part.first, part.second)])
        front = _common(ids, without)
        back = min(_common(ids[::-1], without[::-1]), len(ids) - front)
        excess = len(ids) - self.max_length
        if excess > len(ids) - front - back:
            raise RewardError(
                f"{part.name}: its responses alone take {len(without)} tokens and "
                f"max_length={self.max_length}: use a larger one, or shorter responses"
            )
        return [*ids[:front], *ids[front + excess :]]

    def _note_cuts(self, rows: Sequence[list[int]], fitted: Sequence[list[int]]) -> None:
        shorter = [len(b) < len(a) for a, b in zip(rows, fitted, strict=True)]
        half = len(rows) // 2
        cuts = sum(a or b for a, b in zip(shorter[:half], shorter[half:], strict=True))
        if cuts:
            self.truncated += cuts
            log.warning(
                "%d of %d comparisons lost the beginning of their context to max_length=%s",
                cuts, half, self.max_length,
            )  # fmt: skip

    def _note_marks(self, parts: Sequence[_Parts]) -> None:
        found = [self._marks.search(p.first) or self._marks.search(p.second) for p in parts]
        marks = [match.group() for match in found if match is not None]
        if marks and not self.marked:
            log.warning(
                "%d of %d comparisons have a response with %r or the like in it, which the judge "
                "may take for a mark of its own (said once, counted on)",
                len(marks), len(parts), marks[0],
            )  # fmt: skip
        self.marked += len(marks)


@dataclass(frozen=True, slots=True)
class _Parts:
    """The parts of one row's text, and the name of its comparison for messages."""

    name: str
    context: str
    first: str
    second: str

    @property
    def texts(self) -> tuple[str, str, str]:
        return self.context, self.first, self.second

    def swap(self) -> _Parts:
        return _Parts(self.name, self.context, self.second, self.first)


def _marks(tokenizer: Any) -> re.Pattern[str]:
    """Return a pattern of what a response could use to pass for another one.

    That is `MARKERS`, and special tokens but BOS, which is removed from every text.
    """
    added = getattr(tokenizer, "added_tokens_decoder", {}).values()
    special = {str(token) for token in added if token.special} - {tokenizer.bos_token}
    return re.compile("|".join(map(re.escape, [*MARKERS, *sorted(special)])))


def _named(name: str, make: Callable[..., str], *arguments: object) -> str:
    try:
        return make(*arguments)
    except InputError as error:
        raise InputError(name, error) from error


def _common(left: Sequence[int], right: Sequence[int]) -> int:
    """Return the number of tokens at the start that both sequences share."""
    same = takewhile(lambda pair: pair[0] == pair[1], zip(left, right, strict=False))
    return sum(1 for _ in same)
