"""A `raft score` that was stopped anywhere ends as if it had never been stopped."""

from __future__ import annotations

import random
import resource
import subprocess
import time
from pathlib import Path

import pytest
import toy_runs
from score_files import COUNTING, Stop, hidden, numbered, refused, reward_file, score

from raft.cli.main import main
from rollout.storage.output import OutputFile


@pytest.mark.slow
@pytest.mark.parametrize("batch", [1, 4, 7])
def test_going_on_after_a_stop_anywhere(tmp_path: Path, batch: int) -> None:
    file, reward = numbered(tmp_path), reward_file(tmp_path)
    options = ("--reward", reward, "--batch-rows", str(batch))
    straight = tmp_path / "straight.jsonl"
    assert score(*options, file, "--out", straight) == 0
    log = tmp_path / "reward_function.py.log"
    calls = log.read_text().splitlines()
    partial, draw = tmp_path / ".rows.scored.jsonl.partial", random.Random(batch)
    for stop in range(1, len(calls) + 1):
        with Stop(stop):
            assert score(*options, file) == 130
        if partial.exists():  # a kill tears the last write anywhere
            whole = partial.read_bytes()
            partial.write_bytes(whole[: draw.randint(0, len(whole))])
        log.unlink()
        assert score(*options, file) == 0
        again = log.read_text().splitlines() if log.exists() else []
        assert again == calls[len(calls) - len(again) :]
        out = tmp_path / "rows.scored.jsonl"
        assert out.read_bytes() == straight.read_bytes()
        assert not partial.exists()
        out.unlink()


@pytest.mark.slow
def test_killed_again_and_again(tmp_path: Path) -> None:
    body = "time.sleep(0.05)\n" + COUNTING
    file, reward = numbered(tmp_path, 60), reward_file(tmp_path, body)
    options = ("--quiet", "--reward", reward, "--batch-rows", "2", file)
    straight, out = tmp_path / "straight.jsonl", tmp_path / "rows.scored.jsonl"
    partial = tmp_path / ".rows.scored.jsonl.partial"
    assert main(["score", *map(str, options), "--out", str(straight)]) == 0
    log = tmp_path / "reward_function.py.log"
    log.unlink()
    draw, kills = random.Random(5), 0
    while not out.exists():
        before = partial.stat().st_size if partial.exists() else 0
        process = subprocess.Popen(toy_runs.command("score", *options))
        # at least one chunk further, then anywhere
        while process.poll() is None and not (partial.exists() and partial.stat().st_size > before):
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.3))
        if process.poll() is None:
            kills += 1
        process.kill()
        process.wait()
        assert not out.exists() or process.returncode == 0 or not partial.exists()
    assert kills >= 3
    assert out.read_bytes() == straight.read_bytes()
    # each kill loses one chunk at the most
    assert len(log.read_text().splitlines()) <= 30 + kills


def interrupted(root: Path) -> tuple[Path, str]:
    """Eight rows of which the first two chunks of two are scored, and their reward."""
    file, reward = numbered(root, 8), reward_file(root)
    with Stop(3):
        assert score("--reward", reward, file, "--batch-rows", "2") == 130
    (root / "reward_function.py.log").unlink()
    return file, reward


def test_interrupted_from_the_keyboard(tmp_path: Path) -> None:
    file, reward = interrupted(tmp_path)
    assert not (tmp_path / "rows.scored.jsonl").exists()
    assert score("--reward", reward, file, "--batch-rows", "2") == 0
    assert len((tmp_path / "reward_function.py.log").read_text().splitlines()) == 2
    assert hidden(tmp_path) == [".rows.scored.jsonl.settings"]


def test_other_settings_do_not_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, reward = interrupted(tmp_path)
    capsys.readouterr()
    out = tmp_path / "rows.scored.jsonl"
    message = refused(capsys, "--reward", reward, file, "--batch-rows", "3")
    assert message.startswith(f"{out}: holds rows of an interrupted command (.rows.scored.jsonl.p")
    assert "--batch-rows 2 → 3" in message and "--restart" in message
    message = refused(capsys, "--reward", "function:length", file, "--batch-rows", "2")
    assert "scorer.function" in message
    # the same name, and another function behind it
    source = (tmp_path / "reward_function.py").read_text()
    (tmp_path / "reward_function.py").write_text(source + "\n# changed\n")
    assert "files." in refused(capsys, "--reward", reward, file, "--batch-rows", "2")
    assert score("--reward", "function:length", file, "--restart") == 0
    assert [row["scores"][0] for row in toy_runs.rows(out)] == [1.0] * 8


def test_another_input_does_not_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, reward = interrupted(tmp_path)
    capsys.readouterr()
    options = ("--reward", reward, file, "--batch-rows", "2")
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join([*lines[:3], lines[3].replace("q3", "Q3"), *lines[4:]]))
    assert refused(capsys, *options).startswith(f"{file}:4: is another row than when")
    # rows that were still to come may be mended
    file.write_text("".join([*lines[:6], lines[6].replace("q6", "Q6")]))
    assert score(*options) == 0
    found = toy_runs.rows(tmp_path / "rows.scored.jsonl")
    assert [row["prompt"] for row in found] == [f"q{k}" for k in range(6)] + ["Q6"]
    # and a finished file is of its whole input
    file.write_text("".join(lines))
    assert "input.digest" in refused(capsys, *options)


def test_a_file_that_is_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = numbered(tmp_path, 3), tmp_path / "rows.scored.jsonl"
    reward = ("--reward", "function:length", file)
    out.write_text("mine\n")
    message = refused(capsys, *reward)
    assert message.startswith(f"{out}: is there already, and nothing tells how")
    assert out.read_text() == "mine\n"
    assert score(*reward, "--restart") == 0
    first = out.read_bytes()
    assert "scorer.arguments" in refused(capsys, *reward, "--set", "arguments.scale=2")
    assert out.read_bytes() == first
    # a restart that fails leaves the finished file, and what it is
    bad = reward_file(tmp_path, "raise OSError")
    assert score("--reward", bad, file, "--restart") == 2
    assert out.read_bytes() == first and score(*reward) == 0
    # another file under that name is not taken for ours
    out.write_bytes(first + b"{}\n")
    capsys.readouterr()
    assert "nothing tells how" in refused(capsys, *reward)


def test_one_command_at_a_time(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, out = numbered(tmp_path, 3), tmp_path / "rows.scored.jsonl"
    with OutputFile(out, {}):
        message = refused(capsys, "--reward", "function:length", file)
    assert message.startswith(f"{out}: another command is writing it")


@pytest.mark.slow
def test_a_full_disk(tmp_path: Path) -> None:
    file = numbered(tmp_path, 200)
    arguments = toy_runs.command(
        "score", "--quiet", "--reward", "function:length", file, "--batch-rows", "20"
    )
    limit = 6000
    done = subprocess.run(
        arguments, capture_output=True, text=True, timeout=60, check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "no space left on the disk" in done.stderr
    assert score("--reward", "function:length", file, "--batch-rows", "20") == 0
    assert len(toy_runs.rows(tmp_path / "rows.scored.jsonl")) == 200
