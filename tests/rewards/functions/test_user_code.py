"""What comes out of a user's code: one error with its place, never a success, never our package."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import toy_runs
from wording import refusal, says

from rewards.functions.reward import FunctionReward
from rewards.types import RewardError
from rollout.errors import InputError
from rollout.types import Completion, Group, Prompt

GROUP = Group(Prompt("p", "q"), (Completion("a"), Completion("b")), 0)
# bodies of a function, its line 5 where the error comes from, and what must be said
WAYS_OUT = {
    "sys.exit()": "called sys.exit()",
    "sys.exit(0)": "called sys.exit(0)",
    "sys.exit('done')": "called sys.exit('done')",
    "quit()": "called sys.exit",
    "raise GeneratorExit": "raised GeneratorExit",
    "raise asyncio.CancelledError": "raised CancelledError",
    "raise Base('b')": "raised Base: b",
    "raise Mute": "raised Mute",
    "return 1 / 0": "raised ZeroDivisionError: division by zero",
    "return json.loads('{')": "raised JSONDecodeError",
    "return helper()": "raised KeyError: 'x'",
}
HEAD = """\
import asyncio, json, sys
def helper(): raise KeyError('x')
{define} score(completions, **_):
    pass
    {body}
class Base(BaseException): pass
class Mute(Exception):
    def __str__(self): sys.exit(0)
"""


def file_with(folder: Path, body: str, define: str = "def") -> Path:
    path = folder / "own.py"
    path.write_text(HEAD.format(define=define, body=body))
    return path


@pytest.mark.parametrize("define", ["def", "async def"])
@pytest.mark.parametrize("body", WAYS_OUT)
def test_every_way_out_is_an_error_with_its_place(tmp_path: Path, body: str, define: str) -> None:
    path = file_with(tmp_path, body, define)
    with pytest.raises(RewardError) as caught:
        FunctionReward(f"{path}:score").score_groups([GROUP])
    line = 2 if "helper" in body else 5
    assert WAYS_OUT[body] in str(caught.value) and f"at {path}:{line}" in str(caught.value)
    assert "'p'" in str(caught.value)


def test_what_a_function_returns_runs_code_too() -> None:
    class Scores:
        def tolist(self) -> list[float]:
            sys.exit(0)

    class Number(float):
        def __float__(self) -> float:
            sys.exit(0)

    for returned in (Scores(), [Number(1), Number(2)]):
        with pytest.raises(RewardError, match=r"called sys\.exit\(0\), at .*test_user_code"):
            FunctionReward(lambda value=returned, **_: value, "f").score_groups([GROUP])


def test_ctrl_c_is_no_error_of_the_function() -> None:
    def score(**_: object) -> list[float]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        FunctionReward(score).score_groups([GROUP])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import sys\n\nsys.exit(0)", "called sys.exit(0), at {path}:3"),
        ("\n1 / 0", "raised ZeroDivisionError: division by zero, at {path}:2"),
        ("def score(:", "SyntaxError"),
        ("import no_such_library", "No module named 'no_such_library', at {path}:1"),
    ],
)
def test_a_file_that_cannot_be_imported(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "own.py"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        FunctionReward(f"{path}:score")
    assert said.format(path=path) in str(caught.value)


@pytest.mark.parametrize("body", ["sys.exit(0)", "raise GeneratorExit"])
def test_no_command_is_a_success(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], body: str
) -> None:
    path = file_with(tmp_path, body)
    rows = toy_runs.write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "responses": ["b"]}])
    reward = {"kind": "function", "function": f"{path}:score", "arguments": {}}
    run = toy_runs.config_file(tmp_path, reward=reward)
    for command in (
        ["score", "--reward", f"function:{path}:score", rows],
        ["rank", "--reward", f"function:{path}:score", rows],
        ["run", run],
    ):
        assert f"at {path}:5" in refusal(capsys, command[0], "--quiet", *command[1:])
    assert not (tmp_path / "rows.scored.jsonl").exists()


@pytest.mark.ray
def test_nor_is_a_run_on_workers(tmp_path: Path) -> None:
    reward = {"kind": "function", "function": f"{file_with(tmp_path, 'sys.exit(0)')}:score"}
    file = toy_runs.config_file(
        tmp_path, reward={**reward, "arguments": {}}, cluster={"address": "local"}
    )
    done = toy_runs.raft("run", "--quiet", file)
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert says(done.stderr, f"called sys.exit(0), at {tmp_path / 'own.py'}:5")


def shadows(folder: Path) -> None:
    """Files by the names of our packages and of libraries that we use."""
    for name in ("rewards", "rollout", "datasets", "yaml", "numpy"):
        body = "return [SCORE] * len(completions)"
        text = f"from beside import SCORE\ndef score(completions, **_):\n    {body}\n"
        (folder / f"{name}.py").write_text(text)
    (folder / "beside.py").write_text("SCORE = 7.0\n")


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    "start", ["-m raft.cli", "-c 'import sys, raft.cli.main as m; sys.exit(m.main())'"]
)
def test_a_users_folder_never_takes_the_place_of_a_package(tmp_path: Path, start: str) -> None:
    shadows(tmp_path)
    toy_runs.write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}])
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])}
    for name in ("rewards", "rollout", "datasets", "yaml"):
        line = f"score --quiet --restart --reward function:{name}.py:score rows.jsonl"
        done = subprocess.run(
            ["bash", "-c", f"{sys.executable} {start} {line}"], cwd=tmp_path, timeout=60,
            env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        assert toy_runs.rows(tmp_path / "rows.scored.jsonl")[0]["score"] == 7.0


@pytest.mark.thorough
@pytest.mark.ray
def test_nor_in_a_worker(tmp_path: Path) -> None:
    shadows(tmp_path)
    (tmp_path / "raft.py").write_text("raise ImportError")
    reward = {"kind": "function", "function": "rollout.py:score", "arguments": {}}
    file = toy_runs.config_file(tmp_path, reward=reward, iterations=1, cluster={"address": "local"})
    script = tmp_path / "scripts" / "start.py"
    script.parent.mkdir()
    script.write_text(
        "import sys\n"
        "from pathlib import Path\n"
        "from raft.cli.main import main\n"
        "# Python itself has this one by now, its workers have not\n"
        "Path(__file__).with_name('types.py').write_text('raise ImportError')\n"
        "sys.exit(main())\n"
    )
    done = subprocess.run(
        [sys.executable, str(script), "run", "--quiet", str(file)],
        cwd=tmp_path, timeout=300, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    )  # fmt: skip
    # but for the warning that this reward tells nothing apart
    assert done.returncode == 0 and "rror" not in done.stderr, done.stderr
    assert toy_runs.metrics(tmp_path / "run")[-1]["eval/reward_mean"] == 7.0


def test_a_module_by_the_name_of_ours_is_told_apart(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = toy_runs.write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}])
    message = refusal(capsys, "score", "--reward", "function:rewards:score", rows)
    assert "rewards.py:score" in message
