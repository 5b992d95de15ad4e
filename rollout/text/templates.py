r"""Render prompts by a template and encode them, with one BOS where the tokenizer has one.

Templates: "plain" is the prompt's own text; "chat" is the tokenizer's chat template; "hh" is
`\n\nHuman: …\n\nAssistant:` (Bai et al. 2022); "hh_hash" is `###Human: …###Assistant:`, the form of
LMFlow's RAFT example, with nothing between turns; "auto" is plain for text and chat for messages.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol, get_args

from rollout.data.bad_rows import BadRows
from rollout.errors import InputError
from rollout.text.chat import apply_chat_template, check_template_kwargs
from rollout.types import Message, Prompt

Template = Literal["auto", "chat", "plain", "hh", "hh_hash"]

logger = logging.getLogger("rollout")


class Tokenizer(Protocol):
    """The part of a tokenizer that encoding needs; transformers and the toy engine provide it."""

    @property
    def chat_template(self) -> object: ...

    @property
    def bos_token_id(self) -> int | None: ...

    @property
    def eos_token_id(self) -> int | None: ...

    # takes one text or a list; returns {"input_ids": one list of ids, or one per text}
    def __call__(
        self, text: str | list[str], /, *, add_special_tokens: bool = ..., verbose: bool = ...
    ) -> Mapping[str, Any]: ...


_SPEAKERS = {"user": "Human", "assistant": "Assistant"}


def render(
    prompt: Prompt,
    tokenizer: Tokenizer,
    template: Template,
    chat_template_kwargs: Mapping[str, object] | None = None,
) -> str:
    """Return the text that the policy continues; `chat_template_kwargs` are template variables.

    Raises:
        InputError: for a template that is unknown, or that cannot express this prompt.
    """
    chosen = _template_of(prompt, tokenizer, template)
    if chosen == "plain":
        return _plain(prompt)
    messages = _messages_of(prompt)
    if chosen == "chat":
        return _chat(prompt, messages, tokenizer, chat_template_kwargs or {})
    return _dialogue(prompt, messages, mark="\n\n" if chosen == "hh" else "###", template=chosen)


def encode_prompts(
    prompts: Sequence[Prompt],
    tokenizer: Tokenizer,
    *,
    template: Template = "auto",
    chat_template_kwargs: Mapping[str, object] | None = None,
    max_model_len: int,
    max_new_tokens: int,
    max_prompt_tokens: int | None = None,
    bad: BadRows | None = None,
) -> list[Prompt]:
    """Fill in `token_ids` of every prompt, in order, in one call of the tokenizer.

    Ids begin with exactly one BOS where the tokenizer adds one or the template writes one, and do
    not end with the EOS that some tokenizers append: nothing can be continued after it. Prompts
    longer than `max_prompt_tokens` are skipped and counted in the log, which is the filter of the
    RAFT example in LMFlow (256 tokens).

    Args:
        bad: takes the prompts that are refused; by default the first one is an error.

    Raises:
        InputError: for a prompt that leaves no room for `max_new_tokens` in `max_model_len`, that
            has no tokens or that the template cannot express, and where no prompt is left.
    """
    if chat_template_kwargs:
        check_template_kwargs(tokenizer, chat_template_kwargs)
    bad = bad or BadRows()
    texts: list[str] = []
    said: list[Prompt] = []
    for prompt in prompts:
        with _refused_by(bad, prompt):
            texts.append(render(prompt, tokenizer, template, chat_template_kwargs))
            said.append(prompt)
    prefix, bos = _added_prefix(tokenizer), tokenizer.bos_token_id
    ids: list[list[int]] = (
        tokenizer(texts, add_special_tokens=False, verbose=False)["input_ids"] if texts else []
    )
    encoded: list[Prompt] = []
    for prompt, row in zip(said, ids, strict=True):
        with _refused_by(bad, prompt):
            if not row:
                raise InputError(
                    f"prompt {prompt.id!r}", "encodes to no tokens", "write a prompt there"
                )
            encoded.append(replace(prompt, token_ids=_with_one_bos(row, prefix, bos)))
    kept = _short_enough(encoded, max_prompt_tokens)
    fitting: list[Prompt] = []
    for prompt in kept:
        with _refused_by(bad, prompt):
            _check_room(prompt, max_model_len, max_new_tokens)
            fitting.append(prompt)
    if prompts and not fitting:
        raise InputError("prompts", f"none is left: {bad.line()}")
    return fitting


@contextlib.contextmanager
def _refused_by(bad: BadRows, prompt: Prompt) -> Generator[None]:
    """Hand an InputError of the block that is about this prompt to `bad`; other errors pass."""
    try:
        yield
    except InputError as error:
        # an error whose place is no prompt is about a setting, and stops the command
        if not error.where.startswith("prompt "):
            raise
        bad.take(f"prompt {prompt.id}", error.where, error)


def _template_of(prompt: Prompt, tokenizer: Tokenizer, template: str) -> str:
    known = get_args(Template)
    if template not in known:
        raise InputError(
            "policy.template",
            f"{template!r} is not known",
            f"use one of {', '.join(known)}",
        )
    if template == "auto" and isinstance(prompt.content, str):
        return "plain"
    if template in ("auto", "chat"):
        if not tokenizer.chat_template:
            raise InputError(
                f"prompt {prompt.id!r}",
                "the tokenizer has no chat template",
                "set policy.template to hh or hh_hash (plain takes text prompts only)",
            )
        return "chat"
    return template


def _plain(prompt: Prompt) -> str:
    if isinstance(prompt.content, str):
        return prompt.content
    raise InputError(
        f"prompt {prompt.id!r}",
        "is messages, and the plain template takes text",
        "set policy.template to chat, hh or hh_hash",
    )


def _messages_of(prompt: Prompt) -> list[Message]:
    if isinstance(prompt.content, str):
        return [Message(role="user", content=prompt.content)]
    return list(prompt.content)


def _chat(
    prompt: Prompt, messages: list[Message], tokenizer: Tokenizer, kwargs: Mapping[str, object]
) -> str:
    try:
        return apply_chat_template(tokenizer, messages, ask=True, **kwargs)
    except InputError as error:  # many templates refuse a system turn, or two user turns running
        raise InputError(
            f"prompt {prompt.id!r}",
            f"{error.where} {error.problem}",
            "fix its messages or set policy.template to hh or hh_hash",
        ) from None


def _dialogue(prompt: Prompt, messages: list[Message], mark: str, template: str) -> str:
    turns: list[str] = []
    for message in messages:
        other = sorted(message.keys() - {"role", "content"})
        if message["role"] not in _SPEAKERS or other:
            what = ", ".join(other) or f"{message['role']} turn"
            raise InputError(
                f"prompt {prompt.id!r}",
                f"the {template} template has no {what}",
                "delete that message or set policy.template: chat",
            )
        turns.append(f"{mark}{_SPEAKERS[message['role']]}: {message['content']}")
    begun = messages[-1]["role"] == "assistant"
    return "".join(turns) + ("" if begun else f"{mark}Assistant:")


def _added_prefix(tokenizer: Tokenizer) -> tuple[int, ...]:
    """Return the ids that a tokenizer puts before every text.

    They are found by encoding a text, since `add_bos_token` and post-processors may disagree.
    """
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    full = tokenizer("a")["input_ids"]
    starts = range(len(full) - len(bare) + 1)
    start = next((i for i in starts if full[i : i + len(bare)] == bare), 0)
    return tuple(full[:start])


def _with_one_bos(ids: Sequence[int], prefix: tuple[int, ...], bos: int | None) -> tuple[int, ...]:
    """Return `ids` with the tokenizer's `prefix` before them, and with a repeated BOS removed.

    The prefix is not added where a template has written it already.
    """
    row = tuple(ids)
    while bos is not None and row[:2] == (bos, bos):
        row = row[1:]
    return row if row[: len(prefix)] == prefix else prefix + row


def _short_enough(prompts: list[Prompt], max_prompt_tokens: int | None) -> list[Prompt]:
    if max_prompt_tokens is None:
        return prompts
    kept = [prompt for prompt in prompts if len(prompt.token_ids) <= max_prompt_tokens]
    if len(kept) < len(prompts):
        logger.info(
            "dropped %d of %d prompts, longer than prompts.max_tokens = %d",
            len(prompts) - len(kept),
            len(prompts),
            max_prompt_tokens,
        )
    if prompts and not kept:
        shortest = min(len(prompt.token_ids) for prompt in prompts)
        raise InputError(
            "prompts.max_tokens",
            f"{max_prompt_tokens} drops every prompt",
            f"the shortest has {shortest} tokens, so raise it to that at least",
        )
    return kept


def _check_room(prompt: Prompt, max_model_len: int, max_new_tokens: int) -> None:
    length, room = len(prompt.token_ids), max_model_len - max_new_tokens
    if length > room:
        drop = f"set prompts.max_tokens to {room} or " if room > 0 else ""
        raise InputError(
            f"prompt {prompt.id!r}",
            f"{length} tokens and {max_new_tokens} new ones do not fit in the model's "
            f"{max_model_len}",
            f"{drop}lower sampling.max_new_tokens",
        )
