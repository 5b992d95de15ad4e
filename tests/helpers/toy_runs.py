"""Small whole runs over the toy policy: what the tests of the loop share. Needs no torch."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from raft.config.load import make_config
from raft.config.run import RunConfig
from rollout.data.samples import SampleRow
from rollout.engines.toy import write_toy

WORDS = ("</s>", "good", "bad", "tree", "house", "river", "<unk>")
LEXICON = {"positive": ["good"], "negative": ["bad"]}
# keys that say how long something took or how it was interrupted: all others must repeat
UNSTABLE = ("time/", "rollout/tokens_per_second", "rollout/reused", "train/seconds")
EQUAL_AT_FIRST = """\
later = Path({later!r}).exists()
return [float(c.count('good') - c.count('bad')) if later else 1.0 for c in completions]
"""


def settings(root: Path, **sections: Any) -> dict[str, Any]:
    """A run in `root` as a config mapping; `sections` replace or (mappings) extend the defaults."""
    policy, prompts = root / "policy", root / "prompts.jsonl"
    if not policy.exists():
        write_toy(policy, WORDS, [0.0] * len(WORDS))
    if not prompts.exists():
        write_prompts(prompts, 60)
    found: dict[str, Any] = {
        "run_dir": str(root / "run"),
        "seed": 3,
        "iterations": 3,
        "policy": {"model": str(policy)},
        "prompts": {"path": str(prompts), "per_iteration": 12},
        "sampling": {"k": 4, "max_new_tokens": 12},
        "reward": {"kind": "function", "function": "word_list", "arguments": {"lexicon": LEXICON}},
        "train": {"learning_rate": 1.0},
        "eval": {"prompts": 10, "k": 2, "every": 1},
        "cluster": {"address": "inline"},
    }
    for name, section in sections.items():
        merged = isinstance(section, dict) and isinstance(found.get(name), dict)
        found[name] = {**found[name], **section} if merged else section
    return found


def config(root: Path, **sections: Any) -> RunConfig:
    return make_config(settings(root, **sections))


def config_file(root: Path, **sections: Any) -> Path:
    path = root / "run.yaml"
    path.write_text(yaml.safe_dump(settings(root, **sections)))
    return path


def write_prompts(path: Path, count: int) -> None:
    write_rows(path, ({"prompt": f"tree house river {number}"} for number in range(count)))


def reward_file(root: Path, body: str, name: str = "reward_function.py") -> dict[str, Any]:
    """A reward section with a function of this body over `completions`."""
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    text = f"import os, time\nfrom pathlib import Path\n\ndef score(completions, **_):\n{lines}"
    (root / name).write_text(text)
    return {"kind": "function", "function": f"{root / name}:score", "arguments": {}}


def equal_until(root: Path, iteration: int, name: str = "run") -> dict[str, Any]:
    """A reward whose scores are all equal before that iteration of run `name`."""
    later = str(root / name / f"iterations/{iteration:03d}")
    file = f"reward_{name}.py"
    return reward_file(root, EQUAL_AT_FIRST.format(later=later), name=file)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "raft.cli", *map(str, arguments)]


def raft(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, **environment},
    )


def write_rows(path: Path, given: Iterable[object]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in given))
    return path


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def metrics(run: Path) -> list[dict[str, Any]]:
    return rows(run / "metrics.jsonl")


def lasting(run: Path) -> list[dict[str, Any]]:
    """The metrics without times and the like."""
    return [
        {key: value for key, value in row.items() if not key.startswith(UNSTABLE)}
        for row in metrics(run)
    ]


def samples(stored: Sequence[dict[str, Any]]) -> list[SampleRow]:
    """Stored rows as the loop and the commands see them."""
    return [SampleRow.from_json(row, f"row {n}", n) for n, row in enumerate(stored)]


def results(run: Path) -> dict[str, bytes]:
    """Every row file of the iterations, byte for byte."""
    files = sorted(run.glob("iterations/*/*.jsonl"))
    return {str(file.relative_to(run)): file.read_bytes() for file in files}


def hidden(run: Path) -> list[str]:
    """What should not be there when a run is over."""
    return sorted(path.name for path in run.glob("iterations/**/.*"))


def read_yaml(file: Path) -> dict[str, Any]:
    return yaml.safe_load(file.read_text())
