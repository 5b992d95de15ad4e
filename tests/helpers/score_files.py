"""What the tests of `raft score` share: files of rows, a reward that counts, and a way to stop."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import toy_runs
from toy_runs import write_rows
from wording import refusal

from raft.cli.main import main
from rollout.storage.output import OutputFile

# every call leaves a line: what was scored, and how often
COUNTING = (
    "with open(__file__ + '.log', 'a') as log:\n"
    "    log.write(' '.join(c if isinstance(c, str) else c[0]['content'] for c in completions))\n"
    "    log.write('\\n')\n"
    "return [float(len(c)) for c in completions]"
)


def score(*arguments: str | Path) -> int:
    return main(["score", "--quiet", *map(str, arguments)])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line with which the command refuses, without its beginning."""
    return refusal(capsys, "score", "--quiet", *arguments)


def reward_file(root: Path, body: str = COUNTING) -> str:
    return f"function:{toy_runs.reward_file(root, body)['function']}"


def hidden(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob(".*"))


def numbered(root: Path, count: int = 30) -> Path:
    """Rows of one to three responses, each a text of its own."""
    rows = [
        {"prompt": f"q{k}", "responses": [f"{k}-{'x' * (k % 7)}-{j}" for j in range(1 + k % 3)]}
        for k in range(count)
    ]
    return write_rows(root / "rows.jsonl", rows)


class Stop:
    """Ends the command in the place of its write number `calls`."""

    def __init__(self, calls: int) -> None:
        self._left = calls
        self._whole = OutputFile.append

    def __enter__(self) -> None:
        stop = self

        def append(self: OutputFile, rows: Any) -> None:
            stop._left -= 1
            if stop._left == 0:
                raise KeyboardInterrupt
            stop._whole(self, rows)

        OutputFile.append = append

    def __exit__(self, *_: Any) -> None:
        OutputFile.append = self._whole
