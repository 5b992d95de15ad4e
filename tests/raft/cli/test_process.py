"""The process of a command: ended by a signal, without a reader, without its standard streams."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import time
import zipfile
from pathlib import Path

import pytest
import toy_runs
from wording import says

from raft.cli.main import main

SLOW = "time.sleep(0.1)\nreturn [float(c.count('good')) for c in completions]"


def scored(root: Path, count: int = 4) -> list[str]:
    """A command that scores a file of `count` rows."""
    rows = ({"prompt": "a", "response": "é→" * (number % 3)} for number in range(count))
    file = toy_runs.write_rows(root / "rows.jsonl", rows)
    return toy_runs.command("score", "--quiet", "--reward", "function:length", file)


def shell(line: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, **environment},
    )  # fmt: skip


def ended(
    command: list[str], there: Path, number: int = signal.SIGTERM
) -> subprocess.CompletedProcess[str]:
    """The command, sent a signal once `there` holds something."""
    process = subprocess.Popen(
        command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        # these tests may run under nohup, and what it ignores a command ignores too
        preexec_fn=lambda: signal.signal(number, signal.SIG_DFL),
    )  # fmt: skip
    end = time.monotonic() + 150  # a busy machine takes a minute to start a cluster
    while not (there.exists() and there.stat().st_size) and process.poll() is None:
        assert time.monotonic() < end, "the command did not begin"
        time.sleep(0.01)
    process.send_signal(number)
    out, error = process.communicate(timeout=60)
    return subprocess.CompletedProcess(command, process.returncode, out, error)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_run_that_is_told_to_end_goes_on_later(tmp_path: Path, number: int) -> None:
    def config(name: str) -> Path:
        file = toy_runs.config_file(
            tmp_path, run_dir=str(tmp_path / name), reward=toy_runs.reward_file(tmp_path, SLOW)
        )
        return file.rename(tmp_path / f"{name}.yaml")

    straight, cut = config("straight"), config("cut")
    assert main(["run", "--quiet", str(straight)]) == 0
    command = toy_runs.command("run", "--quiet", cut)
    done = ended(command, tmp_path / "cut/iterations/001", number)
    assert done.returncode == 128 + number
    assert says(done.stderr, "raft: interrupted the same command goes on")
    assert done.stderr.count("\n") == 1
    assert main(["run", "--quiet", str(cut)]) == 0
    assert toy_runs.results(tmp_path / "cut") == toy_runs.results(tmp_path / "straight")
    assert toy_runs.hidden(tmp_path / "cut") == []


@pytest.mark.slow
def test_scoring_that_is_told_to_end_goes_on_later(tmp_path: Path) -> None:
    # rows of one prompt would be one batch
    rows = [{"prompt": f"a {n}", "response": "good " * (n % 7)} for n in range(40)]
    file = toy_runs.write_rows(tmp_path / "rows.jsonl", rows)
    function = toy_runs.reward_file(tmp_path, SLOW)["function"]
    line = ["score", "--quiet", "--reward", f"function:{function}", "--batch-rows", "2", str(file)]
    done = ended(toy_runs.command(*line), tmp_path / ".rows.scored.jsonl.partial")
    assert done.returncode == 143 and done.stderr.count("\n") == 1
    assert main(line) == 0
    assert [row["score"] for row in toy_runs.rows(tmp_path / "rows.scored.jsonl")] == [
        float(n % 7) for n in range(40)
    ]


@pytest.mark.thorough
@pytest.mark.ray
def test_a_cluster_is_told_to_end(tmp_path: Path) -> None:
    file = toy_runs.config_file(
        tmp_path, reward=toy_runs.reward_file(tmp_path, SLOW), iterations=100,
        cluster={"address": "local"},
    )  # fmt: skip
    done = ended(
        toy_runs.command("run", "--quiet", file), tmp_path / "run/iterations/001/.rollouts.samples"
    )
    assert done.returncode == 143 and done.stdout == ""
    assert says(done.stderr, "raft: interrupted") and done.stderr.count("\n") == 1


@pytest.mark.slow
def test_who_reads_only_the_beginning_is_no_fault(tmp_path: Path) -> None:
    command = " ".join(scored(tmp_path, 3000))
    done = shell(f"{command} --out - | head -1; echo ${{PIPESTATUS[0]}}")
    first, code = done.stdout.splitlines()
    assert json.loads(first)["score"] == 0
    assert (done.stderr, code) == ("", "0")
    done = shell(f"{' '.join(toy_runs.command('--help'))} | true; echo ${{PIPESTATUS[0]}}")
    assert done.stderr == ""


@pytest.mark.slow
def test_an_ascii_terminal(tmp_path: Path) -> None:
    command = " ".join(scored(tmp_path))
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    done = shell(f"{command} --out -", **ascii_only)
    assert done.returncode == 0 and done.stderr == ""
    assert json.loads(done.stdout.splitlines()[1])["response"] == "é→"
    done = shell(f"{command} --json --out '{tmp_path}/→.jsonl'", **ascii_only)
    assert done.returncode == 0 and done.stdout.isascii()
    assert json.loads(done.stdout)["out"] == f"{tmp_path}/→.jsonl"
    done = shell(f"{command} --out '{tmp_path}/→.jsonl'", **ascii_only)
    assert done.returncode == 0 and says(done.stdout, r"scores .jsonl")


@pytest.mark.slow
def test_what_a_function_left_in_an_open_file_is_written(tmp_path: Path) -> None:
    (tmp_path / "noting.py").write_text(
        "import gzip, zipfile\n"
        f"notes = open({str(tmp_path / 'notes')!r}, 'w')\n"
        f"packed = gzip.open({str(tmp_path / 'notes.gz')!r}, 'wt')\n"
        f"archive = zipfile.ZipFile({str(tmp_path / 'notes.zip')!r}, 'w')\n"
        "def score(completions, **_):\n"
        "    notes.write('seen ')\n"
        "    packed.write('seen ')\n"
        "    archive.writestr('seen', '')\n"
        "    return [1.0 for _ in completions]\n"
    )
    file = toy_runs.write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}])
    function = f"function:{tmp_path / 'noting.py'}:score"
    assert toy_runs.raft("score", "--quiet", "--reward", function, file).returncode == 0
    assert (tmp_path / "notes").read_text().startswith("seen ")
    assert gzip.decompress((tmp_path / "notes.gz").read_bytes()).startswith(b"seen ")
    assert "seen" in zipfile.ZipFile(tmp_path / "notes.zip").namelist()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_streams_that_are_closed(tmp_path: Path, closed: str) -> None:
    command = " ".join(scored(tmp_path))
    for rest in ("", "--json --restart"):
        done = shell(f"{command} {rest} {closed}")
        assert (done.returncode, done.stderr) == (0, "")
    assert len(toy_runs.rows(tmp_path / "rows.scored.jsonl")) == 4
    # and where there is something to complain of
    assert shell(f"{command} --restart --split {closed}").returncode == 2


@pytest.mark.slow
def test_rows_need_a_stream(tmp_path: Path) -> None:
    done = shell(f"{' '.join(scored(tmp_path))} --out - >&-")
    assert done.returncode == 2 and says(done.stderr, "raft: --out: standard output is closed")


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    here = f"PYTHONPATH={Path(__file__).parents[3]}"
    done = shell(f"cd {gone}; rmdir {gone}; {here} {' '.join(scored(tmp_path))}")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert says(done.stderr, "raft: the working directory is not there")


def test_what_a_terminal_would_obey_is_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;title\x07\x1b[31m\x9b31m\u202e"
    # an exception's text, a column, an id, a file's name
    function = tmp_path / "evil.py"
    function.write_text(f"def score(**_):\n    raise ValueError({evil!r})\n")
    file = toy_runs.write_rows(tmp_path / f"{evil}.jsonl", [{"prompt": "a", "response": "b"}])
    columns = toy_runs.write_rows(tmp_path / "b.jsonl", [{evil: "a"}])
    for line in (
        ["--reward", f"function:{function}:score", file],
        ["--reward", f"function:{evil}", file],
        ["--reward", "function:length", columns],
        ["--reward", "function:length", tmp_path / f"no{evil}.jsonl"],
    ):
        assert main(["score", "--quiet", *map(str, line)]) == 2
        said = capsys.readouterr().err
        assert said.removesuffix("\n").isprintable() and "x1b" in said
    assert main(["score", "--reward", "function:length", str(file)]) == 0
    said = capsys.readouterr()
    assert all(line.isprintable() for line in [*said.out.splitlines(), *said.err.splitlines()])
    assert main(["score", "--quiet", "--json", "--reward", "function:length", str(file)]) == 0
    out = capsys.readouterr().out
    assert out.removesuffix("\n").isprintable()
    assert json.loads(out)["out"] == str(file).replace(".jsonl", ".scored.jsonl")


@pytest.mark.parametrize("body", ["return [1.7e308] * len(completions)",
                                  "return [1e308, -1e308] * (len(completions) // 2)"])  # fmt: skip
def test_scores_that_no_sum_can_hold(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str
) -> None:
    reward = toy_runs.reward_file(tmp_path, body)
    named = f"function:{reward['function']}"
    assert main(["run", "--quiet", str(toy_runs.config_file(tmp_path, reward=reward))]) == 2
    rows = [{"prompt": "a", "responses": ["b", "c"]} for _ in range(3)]
    file = str(toy_runs.write_rows(tmp_path / "rows.jsonl", rows))
    assert main(["score", "--quiet", "--reward", named, file]) == 2
    for said in capsys.readouterr().err.splitlines():
        assert says(said, "must be finite")
    lenient = ["--set", "non_finite=missing", "--json"]
    assert main(["score", "--quiet", "--reward", named, file, *lenient]) == 0
    assert json.loads(capsys.readouterr().out)["missing"] == 6
    toy_runs.write_rows(tmp_path / "pool.jsonl", [{**row, "scores": [1e308, 1.0]} for row in rows])
    assert main(["bon", "--quiet", str(tmp_path / "pool.jsonl")]) == 2
    assert says(capsys.readouterr().err, "pool.jsonl:1 score 0 is too large")


STUCK = """\
import ctypes, subprocess
mutex = ctypes.create_string_buffer(64)
library = ctypes.CDLL(None)
library.pthread_mutex_lock(mutex)
child = subprocess.Popen(["sleep", "600"])
Path(__file__).with_suffix(".child").write_text(str(child.pid))
library.pthread_mutex_lock(mutex)
"""


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_library_that_does_not_return_does_not_hold_up_the_end(
    tmp_path: Path, number: int
) -> None:
    file = toy_runs.write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}])
    function = toy_runs.reward_file(tmp_path, STUCK)["function"]
    command = toy_runs.command("score", "--quiet", "--reward", f"function:{function}", file)
    began = time.monotonic()
    done = ended(command, tmp_path / "reward_function.child", number)
    assert done.returncode == 128 + number and time.monotonic() - began < 40
    assert says(done.stderr, "raft: interrupted the same command goes on")
    assert done.stderr.count("\n") == 1
    child = int((tmp_path / "reward_function.child").read_text())
    # nothing that it started is left; who waits for it is another question
    assert not Path(f"/proc/{child}").exists() or "Z" in Path(f"/proc/{child}/stat").read_text()
