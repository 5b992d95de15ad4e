"""What `raft validate` and a run that starts find without weights, tokenizer or workers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import toy_runs

from raft.runs.check import check_checkpoint, check_run
from rollout.types import InputError


def refused(root: Path, **sections: Any) -> str:
    with pytest.raises(InputError) as caught:
        check_run(toy_runs.config(root, **sections), hub=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("sections", "says"),
    [
        ({"policy": {"model": "./nowhere"}}, "policy.model: no such folder ./nowhere"),
        ({"prompts": {"path": "nowhere.jsonl"}}, "nowhere.jsonl: no such file"),
        ({"eval": {"prompts": "nowhere.jsonl"}}, "nowhere.jsonl: no such file"),
        ({"monitor": {"reference_text": "nowhere.txt"}}, "monitor.reference_text: nowhere.txt"),
        ({"gold": {"kind": "model", "model": "./nowhere"}}, "gold.model: no such folder"),
        ({"reward": {"kind": "function", "function": "lenth"}}, "lenth"),
        ({"reward": {"kind": "function", "function": "nowhere.py:f"}}, "nowhere.py"),
        ({"reward": {"kind": "function", "function": "nowhere_at_all:f"}}, "nowhere_at_all"),
        ({"reward": {"kind": "function", "function": "json:scor"}}, "'scor'"),
        ({"reward": {"arguments": {"lexicon": "nowhere.json"}}}, "nowhere.json"),
        ({"reward": {"arguments": {"lexikon": {}}}}, "lexikon"),
        ({"policy": {"max_model_len": 10**6}}, "policy.max_model_len: is 1000000"),
        ({"sampling": {"max_new_tokens": 10**6}}, "sampling.max_new_tokens: is 1000000"),
    ],
)
def test_what_would_fail_later_is_named(
    tmp_path: Path, sections: dict[str, Any], says: str
) -> None:
    assert says in refused(tmp_path, **sections)


def test_a_tournament_that_there_is_not(tmp_path: Path) -> None:
    judge = {"kind": "pairwise", "model": "someone/judge", "tournament": "knockdown"}
    judge |= dict.fromkeys(("function", "arguments"))
    said = refused(tmp_path, reward=judge)
    assert said.startswith("reward") and "knockdown" in said and "knockout" in said


@pytest.mark.skipif(any(Path("/dev").glob("nvidia[0-9]*")), reason="there is a GPU")
def test_gpus_that_this_machine_has_not(tmp_path: Path) -> None:
    assert "cluster.gpus: is 4" in refused(tmp_path, cluster={"gpus": 4})


@pytest.mark.parametrize(
    ("text", "name", "says"),
    [
        ("def score(completions): return []", "score", None),
        ("score = lambda completions: []", "score", None),
        ("try:\n    from json import dumps as score\nexcept ImportError:\n    pass", "score", None),
        ("from os.path import *", "score", None),
        ("def score(completions, level): return []", "score", None),  # a column
        ("def score(completions, level, *, mood=1, **_): return []", "score", None),
        ("def scores(completions): return []", "score", "no reward function 'score'"),
        ("def score(completions, answer): return []", "score", "function.py:1: score needs"),
        ("def score(completions, *, answer): return []", "score", "function.py:1: score needs"),
        ("\n\ndef score(:", "score", "function.py:3: cannot be read"),
    ],
)
def test_a_function_is_looked_up_in_its_file_which_is_not_run(
    tmp_path: Path, text: str, name: str, says: str | None
) -> None:
    rows = ({"prompt": f"tree {number}", "level": 1} for number in range(60))
    toy_runs.write_rows(tmp_path / "prompts.jsonl", rows)
    file = tmp_path / "function.py"
    file.write_text(f"{text}\nraise RuntimeError('it was run')\n")
    reward = {"kind": "function", "function": f"{file}:{name}", "arguments": {}}
    if says is None:
        assert check_run(toy_runs.config(tmp_path, reward=reward)) is not None
    else:
        assert says in refused(tmp_path, reward=reward)


@pytest.mark.slow
def test_nothing_heavy_is_imported(tmp_path: Path) -> None:
    file = toy_runs.config_file(tmp_path)
    program = (
        "import sys; from raft.cli.main import main; assert main(sys.argv[1:]) == 0; "
        "print({'torch', 'transformers', 'ray', 'vllm', 'trl'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", program, "validate", str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout.splitlines()[-1] == "set()"


def test_a_checkpoint_that_is_not_whole(tmp_path: Path) -> None:
    folder = tiny.checkpoint(tmp_path / "checkpoint", "llama")
    check_checkpoint(folder)
    check_checkpoint(None)  # nothing is trained yet
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-8])
    with pytest.raises(InputError, match=r"model\.safetensors.*delete .*trains it again"):
        check_checkpoint(folder)
