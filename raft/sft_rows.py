"""Selected samples as token-id training rows: exactly the tokens that were drawn, nothing added."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from raft.files import read_rows
from rollout.types import InputError

IGNORED = -100  # the label that torch's cross entropy leaves out


def sft_rows(
    path: str | Path, loss_on: str, max_length: int | None = None
) -> Iterator[dict[str, Any]]:
    """`input_ids` and `labels` of every selected row.

    A sample that was cut at the length limit gets no end-of-text token: that would teach the policy
    to stop in mid-sentence. One that ended has its own among its ids.

    Raises:
        InputError: a row is longer than `max_length` (it is never cut in silence).
    """
    for row in read_rows(Path(path)):
        prompt, response = row["prompt_token_ids"], row["token_ids"]
        ids = [*prompt, *response]
        if max_length is not None and len(ids) > max_length:
            raise InputError(
                f"train.max_length: {row['id']} has {len(ids)} tokens, more than {max_length}; "
                "raise it or lower prompts.max_tokens and sampling.max_new_tokens"
            )
        hidden = [IGNORED] * len(prompt) if loss_on == "response" else prompt
        yield {"input_ids": ids, "labels": [*hidden, *response]}
