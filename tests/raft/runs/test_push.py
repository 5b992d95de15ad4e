"""`raft push`: what is uploaded and what the card says; no hub is asked."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import toy_runs
import yaml
from wording import refusal, says

from raft import run as run_raft
from raft.cli.main import main
from raft.runs.metrics import read_numbers
from raft.runs.push import push


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("pushed")
    gold = {"kind": "function", "function": "length"}
    settings = toy_runs.settings(root, iterations=2, gold=gold, keep_checkpoints=2)
    return run_raft(settings, ["eval.every=1"]).run_dir


@pytest.mark.slow
def test_a_dry_run_writes_the_card_and_names_the_files(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert (
        main(["push", str(run), "--to", "me/mine", "--iteration", "2", "--dry-run", "--json"]) == 0
    )
    said = json.loads(capsys.readouterr().out)
    assert said["url"] is None and said["iteration"] == 2
    assert {"README.md", "toy_policy.json", "raft/metrics.jsonl"} <= said["files"].keys()
    assert not any(name.startswith(("optimizer", "train")) for name in said["files"])
    card = (run / "card.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert "raft" in head["tags"]
    for told in ("# mine", "K = 4", "best_of_k", "word_list", "Gold", "length", "prompts.jsonl"):
        assert told in card
    row = read_numbers(run)[2]
    cell = f"{row['eval/reward_mean']:.3g} ± {row['eval/reward_ci95']:.2g}"
    assert f"| **2** | {cell} |" in card


def test_what_is_uploaded_is_one_commit(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub

    asked: list[tuple[str, Any]] = []

    class Api:
        def create_repo(self, name: str, **settings: Any) -> None:
            asked.append((name, settings))

        def create_commit(self, name: str, operations: Any, **_: Any) -> Any:
            asked.append((name, sorted(one.path_in_repo for one in operations)))
            return type("Commit", (), {"commit_url": "https://hub/me/mine"})

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    found = push(run, "me/mine", iteration=1, private=True)
    assert found.url == "https://hub/me/mine"
    (_, settings), (_, files) = asked
    assert settings == {"private": True, "exist_ok": True}
    assert files == sorted(found.files)


def test_what_cannot_be_pushed_is_told(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    missing = refusal(capsys, "push", run, "--to", "me/mine", "--iteration", "7", "--dry-run")
    assert says(missing, "iteration 7 --iteration 001, 002")
    unnamed = refusal(capsys, "push", run, "--to", "mine", "--iteration", "2", "--dry-run")
    assert says(unnamed, "--to mine OWNER/NAME")
    # the tests are offline: the hub cannot be reached
    offline = refusal(capsys, "push", run, "--to", "me/mine", "--iteration", "2")
    assert says(offline, "--to me/mine --dry-run")
