"""Rows of `train.mix`: other conversations and texts that an update learns beside what was drawn.

They keep what drawn rows do not show (a language, a format) from being forgotten. Which ones an
iteration takes depends on the run's seed and the iteration alone; they are stored beside
selected.jsonl, in its form, so that an update that is begun again has the same.
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
    """A prompt and the response to learn; without one, the prompt's text is learned itself."""

    prompt: Prompt
    response: str | None


def read_mix(config: RunConfig) -> list[Example]:
    """What may be mixed in, as its file has it; nothing where the run mixes nothing.

    Plain text is split as that of the prompts is. Raises InputError for a row that is no example.
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
    """Write the rows that stand beside `drawn` others in the update of an iteration."""
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
    """As the policy would read and write them, its end of text last; longer ones are skipped, but
    of texts the beginning is taken."""
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
        if bare:  # its first token is predicted by nothing
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
