"""The command line: help, exit codes, and what it costs to ask."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy_runs
from wording import says

from raft import __version__
from raft.cli.main import main, parser


def subcommands(of: argparse.ArgumentParser) -> Iterator[tuple[str, argparse.ArgumentParser]]:
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.items()


COMMANDS = dict(subcommands(parser()))


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["--version"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    # what makes help slow is what it imports
    code = (
        "import sys\nfrom raft.cli.main import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = ['torch', 'ray', 'transformers', 'vllm', 'trl', 'datasets', 'numpy', 'pydantic']\n"
        "print([name for name in heavy if name in sys.modules], file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.strip() == "[]"


def test_the_fixed_commands_exist() -> None:
    assert {"demo", "run", "curves", "validate"} <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_argument_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main([name, "--help"])
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert COMMANDS[name].description and "usage: raft" in text
    assert f"examples:\n  raft {name}" in text
    for action in COMMANDS[name]._actions:
        said = action.help or action.metavar
        assert said, f"{name}: {action.dest} has no help"


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"raft {__version__}\n"


@pytest.mark.parametrize("arguments", [[], ["fly"], ["run"], ["run", "x.yaml", "--fast"]])
def test_a_wrong_command_line_is_code_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("raft: ") and error.count("\n") == 1 and "--help" in error


@pytest.mark.slow
@pytest.mark.pictures
def test_a_run_says_where_its_curves_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # overrides may stand before and after options
    file = str(toy_runs.config_file(tmp_path))
    assert main(["run", file, "iterations=1", "--quiet", "seed=9"]) == 0
    captured = capsys.readouterr()
    assert captured.out == f"curves: {tmp_path / 'run/curves.png'}\n"
    assert captured.err == ""
    assert (tmp_path / "run/curves.png").read_bytes().startswith(b"\x89PNG")
    assert toy_runs.read_yaml(tmp_path / "run/config.yaml")["seed"] == 9


def test_a_run_tells_its_story_line_by_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", str(toy_runs.config_file(tmp_path, iterations=1))]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert any("engine toy" in line for line in lines)
    assert sum("iteration 1 | held-out reward" in line for line in lines) == 1


def test_validate(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(toy_runs.config_file(tmp_path))
    assert main(["validate", file, "sampling.k=3"]) == 0
    assert main(["validate", file, "sampling.kk=3"]) == 2
    assert main(["validate"]) == 2
    assert capsys.readouterr().err.count("\n") == 2
    assert main(["validate", "--keys"]) == 0
    assert "sampling.k  (default 8)" in capsys.readouterr().out


@pytest.mark.slow
def test_curves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--quiet", str(toy_runs.config_file(tmp_path, iterations=1))]) == 0
    out = tmp_path / "drawn.svg"
    assert main(["curves", str(tmp_path / "run"), "--out", str(out)]) == 0
    assert out.stat().st_size > 0
    capsys.readouterr()
    assert main(["curves", str(tmp_path / "none")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.slow
def test_pictures_and_pages_go_into_the_run_folder(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["run", "--quiet", str(toy_runs.config_file(tmp_path, iterations=1))]) == 0
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    run, picture = tmp_path / "run", tmp_path / "run/curves.png"
    picture.unlink()
    capsys.readouterr()
    assert main(["curves", f"toy={run}"]) == 0
    assert picture.exists() and capsys.readouterr().out == f"{picture}\n"
    assert main(["report", "--quiet", str(run)]) == 0
    assert (run / "report.html").exists()
    # of several runs a picture belongs to none
    assert main(["curves", str(run), f"again={run}"]) == 0
    assert [path.name for path in Path().iterdir()] == ["curves.png"]


@pytest.mark.slow
def test_a_reader_that_goes_away_is_no_fault(tmp_path: Path) -> None:
    command = " ".join(map(str, toy_runs.command("validate", "--keys")))
    done = subprocess.run(
        ["sh", "-c", f"{command} | true"], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.stderr == ""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("rest", ["--out -", "--json"])
def test_a_full_disk_behind_stdout_is_the_users(tmp_path: Path, rest: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"prompt": "a", "response": "b"}\n')
    command = toy_runs.command("score", "--quiet", "--reward", "function:length", file)
    done = subprocess.run(
        ["sh", "-c", f"{' '.join(command)} {rest} > /dev/full"],
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says(done.stderr, "raft: standard output: no space left")


def test_a_device_is_no_output_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, pipe = tmp_path / "rows.jsonl", tmp_path / "pipe"
    file.write_text('{"prompt": "a", "response": "b"}\n')
    os.mkfifo(pipe)
    for rest in ([], ["--restart"]):
        arguments = ["score", "--reward", "function:length", str(file), "--out", str(pipe), *rest]
        assert main(arguments) == 2
        assert f"--out {pipe}: is no file" in capsys.readouterr().err
    assert pipe.is_fifo()


@pytest.mark.parametrize(
    ("arguments", "where", "says"),
    [
        (["serve-reward", "--reward", "function:length"], "rewards.remote.server.serve", "serving"),
        (["curves", "run"], "raft.curves.draw_curves", "no picture was written"),
    ],
)
def test_an_interrupted_command_says_what_that_means(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    where: str,
    says: str,
) -> None:
    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(where, interrupt)
    assert main(arguments) == 130
    error = capsys.readouterr().err
    assert says in error and "the same command goes on" not in error
