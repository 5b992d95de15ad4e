"""The fenced blocks of the documents, and a folder in which they run.

The second word behind the fence says what a block is: a file's name, under which it is written; or
`gpu`, `hub` or `serve`, for what only is checked, because it needs these or does not end.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import toy_runs

ROOT = Path(__file__).parents[2]
ONLY_CHECKED = ("gpu", "hub", "serve")
_FENCE = re.compile(r"^```(\w*)[ ]*([\w./-]*)\n(.*?)^```$", re.M | re.S)


@dataclass(frozen=True)
class Fence:
    language: str
    word: str
    text: str

    @property
    def is_file(self) -> bool:
        return "." in self.word

    def commands(self) -> Iterator[list[str]]:
        for line in self.text.splitlines():
            if words := shlex.split(line, comments=True):
                yield words


def fences(page: Path) -> list[Fence]:
    return [Fence(*found) for found in _FENCE.findall(page.read_text(encoding="utf-8"))]


REWARD = """
def score(completions, **_):
    return [text.count("good") - text.count("bad") for text in completions]
"""


def furnish(home: Path) -> None:
    """What the documents take for granted, small: a policy, a finished run, rows of every form."""
    from raft.cli.main import main

    toy_runs.settings(home)
    (home / "my_reward.py").write_text(REWARD)
    for name in ("demo/policy", "models/policy"):
        (home / name).parent.mkdir(parents=True, exist_ok=True)
        if not (home / name).exists():
            toy_runs.write_toy(home / name, toy_runs.WORDS, [0.0] * len(toy_runs.WORDS))
    asked = [{"prompt": f"tree house {n}", "answer": "good"} for n in range(40)]
    responses = [{**one, "responses": ["good good", "bad", "good"]} for one in asked[:6]]
    pool = [{**one, "scores": [1.0, 0.5, 0.2, 0.1]} | {"responses": list("abcd")} for one in asked]
    toy_runs.write_rows(home / "prompts.jsonl", asked)
    toy_runs.write_rows(home / "responses.jsonl", responses)
    toy_runs.write_rows(home / "prompts.pool.jsonl", pool)
    toy_runs.write_rows(
        home / "questions.jsonl",
        [{"question": "why", "reply": "so"}, {"question": "a", "reply": "b"}],
    )
    toy_runs.write_rows(
        home / "pairs.jsonl",
        [{"prompt": f"p{n}", "chosen": "good good", "rejected": "bad"} for n in range(20)],
    )
    settings = toy_runs.settings(home, run_dir="runs/mine", policy={"model": "models/policy"},
                                 prompts={"path": "prompts.jsonl"})  # fmt: skip
    (home / "mine.yaml").write_text(json.dumps(settings))
    assert main(["run", str(home / "mine.yaml"), "--quiet"]) == 0
