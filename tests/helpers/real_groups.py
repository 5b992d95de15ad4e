"""Real judgements that several tests use."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

SCORES = "rm_scores_gpt4o_Skywork_Skywork-Reward-Llama-3.1-8B.jsonl"


def ranked_replies(raft_data: Path) -> Iterator[tuple[list[dict[str, str]], list[str], list[int]]]:
    """Every set of replies to one message that people ranked: messages, replies, ranks (0 best)."""

    def walk(message: dict[str, Any], before: list[dict[str, str]]) -> Iterator[Any]:
        role = "user" if message["role"] == "prompter" else "assistant"
        path = [*before, {"role": role, "content": message["text"]}]
        replies = [one for one in message["replies"] if one.get("rank") is not None]
        ranks = [one["rank"] for one in replies]
        if role == "user" and len(set(ranks)) > 1:
            yield path, [one["text"] for one in replies], ranks
        for one in message["replies"]:
            yield from walk(one, path)

    with gzip.open(raft_data / "data" / "oasst" / "en_100_tree.jsonl.gz", "rt") as file:
        for line in file:
            yield from walk(json.loads(line)["prompt"], [])
