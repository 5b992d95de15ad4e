"""Rows of `train.mix`: conversations and texts that an update learns beside the drawn responses.

They prevent the policy from forgetting what drawn responses do not show, such as a language or a
format. Which rows an iteration takes depends on the run's seed and the iteration alone; they are
stored beside selected.jsonl, in the same form, so that a resumed update learns the same rows.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from raft.runs.prompts import load_tokenizer
from raft.selection.rows import SelectedRow
from raft.updates.rows import MIXED
from rewards.checkpoints.hub import local_path
from rollout.data.bad_rows import BadRows
from rollout.data.forms import known_columns
from rollout.data.jsonl import is_object, json_kind
from rollout.data.messages import check_text
from rollout.errors import InputError
from rollout.seeds import derive_seed
from rollout.storage.files import write_rows
from rollout.text.templates import encode_prompts
from rollout.types import Prompt

if TYPE_CHECKING:
    from raft.config.run import RunConfig
    from rollout.data.rows import Row

__all__ = ["Example", "read_mix", "write_mixed"]

log = logging.getLogger("raft")


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the response to learn; with `response` None the prompt's text is learned."""

    prompt: Prompt
    response: str | None


def read_mix(config: RunConfig) -> list[Example]:
    """Return the examples of the file of `train.mix`, in its order; none without that section.

    A text file is split by `prompts.separator`. Raises InputError for a file without rows, and for
    a row that is no example.
    """
    from rollout.data.rows import read_rows
    from rollout.data.sources import find_source

    if config.train.mix is None:
        return []
    try:
        source = find_source(config.train.mix.path)
        separator = config.prompts.separator if source.kind == "text" else None
        found = [_example(row, source.stem) for row in read_rows(source, separator=separator)]
    except InputError as error:
        raise InputError("train.mix", error) from error
    if not found:
        raise InputError("train.mix", f"{config.train.mix.path} holds no rows", "name another file")
    return found


def write_mixed(
    config: RunConfig, examples: Sequence[Example], home: Path, drawn: int, iteration: int
) -> None:
    """Write the rows of `train.mix` that an iteration's update learns beside `drawn` selected ones.

    They are as many as make up `train.mix.share` of all rows; a warning says where fewer fit the
    policy. Raises InputError where none fits. Without `train.mix` no file is written.
    """
    if config.train.mix is None:
        return
    share = config.train.mix.share
    wanted = math.ceil(drawn * share / (1 - share))
    order = random.Random(derive_seed(config.seed, "mix", iteration)).sample(
        examples, len(examples)
    )
    rows = list(islice(_encoded(config, order), wanted))
    if wanted and not rows:
        raise InputError("train.mix", "none of its rows fits the policy", "give shorter ones")
    if len(rows) < wanted:
        log.warning("train.mix: only %d rows fit, and its share is %d", len(rows), wanted)
    write_rows(home / MIXED, (row.to_json() for row in rows))


def _example(row: Row, stem: str) -> Example:
    from rollout.data.pools import flat_answer

    columns = row.value
    if not is_object(columns):
        raise InputError(row.where, f"holds {json_kind(columns)} where an object is expected")
    id = f"{stem}-{row.number:06d}"
    known = known_columns(columns, row.where)
    if "response" in known or "messages" in known:
        content, answer = flat_answer(known, row.where)
        if answer.message is not None:
            raise InputError(row.where, "has a response with tool calls or reasoning", "remove it")
        return Example(Prompt(id, content), answer.text)
    key = "text" if "text" in columns else "prompt"
    if key not in columns:
        raise InputError(
            row.where,
            "has neither a response nor a text",
            'write {"messages": […]} or {"text": "…"}',
        )
    return Example(Prompt(id, check_text(columns[key], row.where, key)), None)


def _encoded(config: RunConfig, examples: Sequence[Example]) -> Iterator[SelectedRow]:
    """Yield the examples encoded as the policy reads prompts and writes responses.

    The end-of-text token comes last. Examples longer than a row of training may be are skipped,
    except for plain texts, which are cut.
    """
    from rollout.engines.base import context_length

    policy, model = config.policy, local_path(config.policy.model)
    tokenizer = load_tokenizer(model)
    end: int | None = tokenizer.eos_token_id
    most = config.train.max_length or policy.max_model_len or context_length(model)
    for example in examples:
        bare = example.response is None
        encoded = encode_prompts(
            [example.prompt],
            tokenizer,
            template="plain" if bare else policy.template,
            chat_template_kwargs=policy.chat_template_kwargs,
            max_model_len=10**9,
            max_new_tokens=0,
            bad=BadRows(),
        )
        ids = list(encoded[0].token_ids)
        if bare:  # the first token of a text cannot be learned: nothing predicts it
            ids, said = ids[:1], ids[1:]
        else:
            (said,) = tokenizer([example.response or ""], add_special_tokens=False)["input_ids"]
        said = [*said, *([] if end is None else [end])]
        if bare:
            said = said[: most - len(ids)]
        if len(ids) + len(said) <= most and said:
            yield _row(example, ids, list(said))


def _row(example: Example, prompt_ids: list[int], ids: list[int]) -> SelectedRow:
    content = example.prompt.content
    return SelectedRow(
        id=example.prompt.id,
        sample=0,
        prompt=content if isinstance(content, str) else list(content),
        response=example.response or "",
        score=None,
        finish_reason=None,
        policy_version=None,
        prompt_token_ids=prompt_ids,
        token_ids=ids,
    )
