"""Whatever a user may get wrong: exit code 2 and one line that says what, where and how to mend."""

from __future__ import annotations

import errno
import json
import os
import resource
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import pytest
import tiny_rewards
import toy_runs
from wording import refusal, says

import raft.loop
import rollout.storage.append_log
from raft.cli.main import main


def refused(capsys: pytest.CaptureFixture[str], *arguments: str | Path) -> str:
    """The one line with which the command refuses, without its beginning."""
    assert main(["run", "--quiet", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("raft: ") and captured.err.endswith("\n")
    assert captured.err.count("\n") == 1, "exactly one line"
    return captured.err.removeprefix("raft: ").rstrip("\n")


def prompts_file(root: Path, *lines: str) -> dict[str, Any]:
    (root / "own.jsonl").write_text("".join(line + "\n" for line in lines))
    return {
        "prompts": {"path": str(root / "own.jsonl"), "per_iteration": 2},
        "eval": {"prompts": 1},
    }


def good_lines(count: int) -> list[str]:
    return [json.dumps({"prompt": f"tree {number}"}) for number in range(count)]


def test_unknown_key(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = toy_runs.config_file(tmp_path)
    message = refused(capsys, file, "sampling.kk=3")
    assert says(message, f"{file}: sampling.kk: unknown key did you mean sampling.k")


def test_missing_config(capsys: pytest.CaptureFixture[str]) -> None:
    assert refused(capsys, "nowhere.yaml").startswith("nowhere.yaml: no such config file")


def test_k_too_small(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    message = refused(capsys, toy_runs.config_file(tmp_path), "select.strategy=top_m", "select.m=5")
    assert "select.m: 5 is more than the 4 samples of a prompt" in message


def test_missing_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = toy_runs.config_file(tmp_path)
    assert refused(capsys, file, "policy.model=./nowhere").startswith(
        "policy.model: no such folder"
    )
    (tmp_path / "empty").mkdir()
    message = refused(capsys, file, f"policy.model={tmp_path / 'empty'}")
    assert message.startswith("policy.model:") and "no config.json" in message
    message = refused(capsys, file, "reward={kind: model, model: ./nowhere}")
    assert message.startswith("reward.model: no such folder")


def test_model_that_no_hub_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # a relative path with a typo looks like a hub name; offline, the hub has nothing
    message = refused(capsys, toy_runs.config_file(tmp_path), "policy.model=models/none")
    assert message.startswith("policy.model: ") and "models/none" in message


def test_broken_prompt_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [*good_lines(16), '{"prompt": "tree', *good_lines(3)]
    file = toy_runs.config_file(tmp_path, **prompts_file(tmp_path, *lines))
    assert refused(capsys, file).startswith(f"{tmp_path / 'own.jsonl'}:17: not valid JSON")


def test_empty_prompt(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [*good_lines(4), '{"prompt": "  "}']
    file = toy_runs.config_file(tmp_path, **prompts_file(tmp_path, *lines))
    assert refused(capsys, file).startswith(f"{tmp_path / 'own.jsonl'}:5: 'prompt' is empty")


def test_prompt_longer_than_the_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [*good_lines(8), json.dumps({"id": "novel", "prompt": "tree " * 600})]
    file = toy_runs.config_file(tmp_path, **prompts_file(tmp_path, *lines))
    message = refused(capsys, file)
    assert message.startswith("prompt 'novel': 600 tokens and 12 new ones do not fit")
    assert main(["run", "--quiet", str(file), "prompts.max_tokens=500"]) == 0


def test_too_few_prompts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = toy_runs.config_file(tmp_path)
    message = refused(capsys, file, "prompts.per_iteration=51")
    assert message.startswith("prompts.per_iteration: is 51, but only 50 prompts are there")
    assert "10 are held out" in message
    assert refused(capsys, file, "eval.prompts=60").startswith("eval.prompts: holding out 60 of 60")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("raise KeyError('answer')", "raised KeyError: 'answer'"),
        ("return [float('nan')] * len(completions)", "gave nan for prompt"),
        ("return [1.0]", "returned 1 scores for"),
        ("return 'good'", "returned a str"),
        ("raise ValueError('two\\nlines')", "raised ValueError: two lines"),
    ],
)
def test_reward_function_that_fails(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str, expected: str
) -> None:
    # the user's code, so the user's to mend; then the same command goes on with what was drawn
    file = toy_runs.config_file(tmp_path, reward=toy_runs.reward_file(tmp_path, body))
    assert expected in refused(capsys, file)
    drawn = (tmp_path / "run/iterations/000/.eval.samples").read_text()
    assert drawn.count("\n") == 10
    toy_runs.reward_file(tmp_path, "return [float(len(c)) for c in completions]")
    assert main(["run", "--quiet", str(file)]) == 0
    assert toy_runs.metrics(tmp_path / "run")[-1]["iteration"] == 3
    first = json.loads(drawn.splitlines()[0])
    kept = {row["id"]: row for row in toy_runs.rows(tmp_path / "run/iterations/000/eval.jsonl")}
    assert kept[first["id"]]["responses"] == first["responses"]


def test_reward_function_that_is_not_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = toy_runs.config_file(tmp_path)
    assert "'word_lits'" in refused(capsys, file, "reward.function=word_lits")
    assert "nowhere.py" in refused(capsys, file, "reward.function=nowhere.py:score")
    assert "'lexikon'" in refused(capsys, file, "reward.arguments={lexikon: {}}")


def test_nothing_selectable(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = toy_runs.config_file(tmp_path)
    assert main(["run", "--quiet", str(file), "select.reject_pattern=."]) == 2
    told = capsys.readouterr().err.splitlines()
    assert sum("learns nothing: no sample of 48 can" in line for line in told) == 3
    assert says(told[-1], "select: nothing was learned in 3 iterations in a row")
    assert "unselectable in the last: rejected 48" in told[-1]
    message = refused(capsys, file, "select.reject_pattern=.")  # at once
    assert message in told[-1]


def test_folder_of_another_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = toy_runs.config_file(tmp_path, iterations=1)
    assert main(["run", "--quiet", str(file)]) == 0
    capsys.readouterr()
    message = refused(capsys, file, "sampling.temperature=0.7", "seed=4")
    assert message.startswith("run_dir: ") and "belongs to another config" in message
    assert "sampling.temperature 1.0 → 0.7" in message and "seed 3 → 4" in message


def test_run_dir_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = toy_runs.config_file(tmp_path)
    (tmp_path / "file").touch()
    assert refused(capsys, file, f"run_dir={tmp_path / 'file'}").startswith("run_dir=")
    message = refused(capsys, file, f"run_dir={tmp_path / 'file' / 'below'}")
    assert message.startswith("run_dir=")


def test_damaged_files_of_the_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = toy_runs.config_file(tmp_path, iterations=1)
    assert main(["run", "--quiet", str(file)]) == 0
    capsys.readouterr()
    run = tmp_path / "run"
    whole = (run / "metrics.jsonl").read_text()
    (run / "metrics.jsonl").write_text(whole[:-20])
    assert "metrics.jsonl:3: cut short" in refused(capsys, file, "iterations=2")
    (run / "metrics.jsonl").write_text(whole)
    (run / "config.yaml").write_text("a: [")
    assert "config.yaml: damaged" in refused(capsys, file, "iterations=2")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("metrics.jsonl", "", "metrics.jsonl: ends at iteration 0"),
        ("metrics.jsonl", "{}\n", "metrics.jsonl: is damaged"),
        ("models.json", "", "models.json: is damaged"),
        ("config.yaml", "\udcff", "belongs to another config"),
        ("iterations/002/eval.jsonl", "", "eval.jsonl: holds no rows"),
        ("iterations/002/ngrams.json", "[]", "ngrams.json: is damaged"),
        ("iterations/002/checkpoint/toy_policy.json", "{", "toy_policy.json: is damaged"),
    ],
)
def test_a_file_of_the_run_that_is_not_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, content: str, words: str
) -> None:
    file = toy_runs.config_file(tmp_path, iterations=2)
    assert main(["run", "--quiet", str(file)]) == 0
    capsys.readouterr()
    (tmp_path / "run" / name).write_bytes(content.encode(errors="surrogateescape"))
    assert words in refused(capsys, file, "iterations=3")


@pytest.mark.slow
def test_what_is_no_file_where_one_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Opening a pipe waits for ever; a link that leads nowhere is no name of the hub."""
    file = toy_runs.config_file(tmp_path)
    monkeypatch.chdir(tmp_path)
    os.mkfifo("pipe.jsonl")
    os.symlink("loop", "loop")
    os.symlink("nowhere", "dangling")
    Path("folder").mkdir()
    for name in ("pipe.jsonl", "loop", "dangling", "/dev/null", "a" * 300, "folder"):
        for key in ("prompts.path", "policy.model"):
            assert name in refused(capsys, file, f"{key}={name}")
        assert refused(capsys, name).startswith(name)
    for name in ("pipe.jsonl", "loop", "loop/run", "/dev/null", "/proc/run", "a" * 300):
        assert refused(capsys, file, f"run_dir={name}").startswith("run_dir=")
        assert main(["validate", str(file), f"run_dir={name}"]) == 2
        capsys.readouterr()
    assert main(["validate", str(file), "run_dir=new/run"]) == 0
    assert not Path("new").exists(), "it was tried, and nothing is left of that"


def test_a_name_that_is_no_utf8(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / os.fsdecode(b"\xff home")
    home.mkdir()
    file = toy_runs.config_file(tmp_path, run_dir="run", iterations=1)
    monkeypatch.chdir(home)
    assert main(["run", "--quiet", str(file)]) == 0
    assert main(["run", "--quiet", str(file), "iterations=2"]) == 0
    assert main(["report", "--quiet", "run"]) == 0
    rows = str(home / "run/iterations/000/eval.jsonl")
    score = ["score", "--quiet", "--reward", "function:length", rows, "--replace"]
    assert main([*score, "--out", str(home / "scored.jsonl")]) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("number", "at"), [(errno.EIO, 2), (errno.EDQUOT, 6), (errno.EROFS, 11)])
def test_what_the_machine_refuses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int, at: int
) -> None:
    """One line that names the file, and the same command goes on when it is mended."""
    straight = toy_runs.config_file(tmp_path, run_dir=str(tmp_path / "straight"), iterations=2)
    assert main(["run", "--quiet", str(straight)]) == 0
    file, calls, replace = toy_runs.config_file(tmp_path, iterations=2), [0], os.replace
    capsys.readouterr()

    def refuse(source: Path, target: Path) -> None:
        calls[0] += 1
        if calls[0] == at:
            raise OSError(number, os.strerror(number), str(target))
        replace(source, target)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, "replace", refuse)
        message = refused(capsys, file)
    assert str(tmp_path / "run") in message and "same command" in message
    assert main(["run", "--quiet", str(file)]) == 0
    assert toy_runs.results(tmp_path / "run") == toy_runs.results(tmp_path / "straight")


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("limit", [100, 1500, 6000, 12000])
def test_a_full_disk(tmp_path: Path, limit: int) -> None:
    # a limit on the size of files is as good as a full disk: the kernel cuts the write short
    sections = {"prompts": {"per_iteration": 30}, "iterations": 2}
    straight = toy_runs.config_file(tmp_path, run_dir=str(tmp_path / "straight"), **sections)
    assert main(["run", "--quiet", str(straight)]) == 0
    file = toy_runs.config_file(tmp_path, **sections)
    done = subprocess.run(
        toy_runs.command("run", "--quiet", file),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
    )
    assert done.returncode == 2, done.stderr
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("raft: ") and "no space left on the disk" in done.stderr
    assert main(["run", "--quiet", str(file)]) == 0
    assert toy_runs.results(tmp_path / "run") == toy_runs.results(tmp_path / "straight")
    assert toy_runs.hidden(tmp_path / "run") == []


def test_a_fault_of_ours_is_one_line_and_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("engine\nexploded")

    monkeypatch.setattr(raft.loop, "draw_held_out", fail)
    (tmp_path / "logs").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "logs"))
    file = str(toy_runs.config_file(tmp_path))
    assert main(["run", "--quiet", file]) == 1
    message = capsys.readouterr().err
    assert message.startswith("raft: RuntimeError: engine exploded") and message.count("\n") == 1
    assert "RAFT_DEBUG=1" in message
    (log,) = (tmp_path / "logs").iterdir()
    assert str(log) in message and "exploded" in log.read_text() and "loop.py" in log.read_text()
    monkeypatch.setenv("RAFT_DEBUG", "1")
    with pytest.raises(RuntimeError):
        main(["run", "--quiet", file])


def test_interrupting_in_this_process(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(rollout.storage.append_log.AppendLog, "append", interrupt)
    assert main(["run", "--quiet", str(toy_runs.config_file(tmp_path))]) == 130
    error = capsys.readouterr().err
    assert says(error, "raft: interrupted") and error.count("\n") == 1


def test_gpus_without_use_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = tiny_rewards.checkpoint(tmp_path / "model", "llama")
    file = toy_runs.write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}])
    line = ["score", file, "--gpus", "2", "--reward"]
    assert says(refusal(capsys, *line, "function:length"), "--gpus 2: nothing runs on a GPU")
    assert says(refusal(capsys, *line, model, "--device", "cpu"), "--gpus 2: --device cpu")
    evaluated = ["eval-reward", "--data", file, "--score-column", "scores", "--gpus", "8"]
    assert says(refusal(capsys, *evaluated), "--gpus 8: nothing runs on a GPU")
