"""Files scored, ranked and evaluated by workers on several GPUs are those of one process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import ray
import tiny_judges
import tiny_rewards
import toy_runs
from remote_servers import served
from wording import refusal, says

from raft.cli.main import main
from raft.config.reward_option import read_spec
from raft.workers.spread import ScoringWorkers, on_gpus
from rewards.build import build_reward, here
from rewards.remote.server import build_app
from rollout.types import Completion, Group, Prompt

pytestmark = [pytest.mark.ray, pytest.mark.slow]
# a process of Ray with GPUs that are made up; torch sees none of them
WITH_GPUS = """\
import sys
from functools import partial
import ray
ray.init = partial(ray.init, num_gpus=2)
from raft.cli.main import command
sys.exit(command())
"""


@pytest.fixture
def two_gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    start = ray.init
    monkeypatch.setattr(ray, "init", lambda **settings: start(num_gpus=2, **settings))
    yield
    ray.shutdown()


def reward(root: Path, body: str) -> str:
    """A small model, and a function beside it whose scores count too."""
    model = root / "model"
    if not model.exists():
        tiny_rewards.checkpoint(model, "llama")
    function = toy_runs.reward_file(root, body)
    return json.dumps(
        {
            "kind": "combine",
            "members": [{"kind": "model", "model": str(model)}, {**function, "weight": 1e-3}],
        }
    )


def rows(root: Path, count: int = 24) -> Path:
    """Prompts of unequal length with two responses; the second one of some is the longer."""
    made = [
        {
            "prompt": f"question {n} " * (1 + n % 5),
            "responses": ["yes " * (1 + n % 7), "no " * (1 + (3 * n) % 8)],
        }
        for n in range(count)
    ]
    return toy_runs.write_rows(root / "rows.jsonl", made)


LOGGED = (
    "with open(__file__ + '.log', 'a') as log: log.write(f'{os.getpid()} {len(completions)}\\n')\n"
    "time.sleep(0.2)\n"
    "return [len(c) / 10 for c in completions]"
)


def processes(root: Path) -> set[str]:
    return {line.split()[0] for line in (root / "reward_function.py.log").read_text().splitlines()}


@pytest.mark.thorough
def test_scores_of_two_workers_are_those_of_one_process(tmp_path: Path, two_gpus: None) -> None:
    file, scorer = rows(tmp_path), reward(tmp_path, LOGGED)
    with file.open("a") as more:
        more.write('{"prompt": "spoilt", "responses": 3}\n')
    out = [tmp_path / "one.jsonl", tmp_path / "two.jsonl"]
    common = ["score", "--quiet", str(file), "--reward", scorer, "--batch-rows", "3"]
    common += ["--on-bad-row", "skip"]
    assert main([*common, "--out", str(out[0])]) == 0
    assert processes(tmp_path) == {str(os.getpid())}
    (tmp_path / "reward_function.py.log").unlink()
    assert main([*common, "--out", str(out[1]), "--gpus", "2"]) == 0
    assert out[0].read_bytes() == out[1].read_bytes()
    assert len(out[1].read_text().splitlines()) == 25 and '"skipped"' in out[1].read_text()
    assert len(processes(tmp_path)) == 2 and str(os.getpid()) not in processes(tmp_path)
    # finished, it is not begun again
    assert main([*common, "--out", str(out[1]), "--gpus", "2"]) == 0


@pytest.mark.thorough
def test_states_of_two_workers_are_those_of_one_process(
    tmp_path: Path, two_gpus: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = tiny_rewards.llama3_tokenizer()
    shape = tiny_rewards.config("llama", vocab_size=len(made), max_position_embeddings=512)
    tensors = tiny_rewards.transformer_tensors(shape)
    base = tiny_rewards.write_checkpoint(tmp_path / "base", shape, tensors, made)
    sides = [
        [
            {"role": "user", "content": f"question {n} " * (1 + n % 5)},
            {"role": "assistant", "content": "yes " * (1 + n % 7)},
        ]
        for n in range(600)
    ]
    pairs = [{"chosen": one, "rejected": [one[0], {**one[1], "content": "no"}]} for one in sides]
    toy_runs.write_rows(tmp_path / "pairs.jsonl", pairs)
    rated = [{"messages": one, "labels": {"good": n % 3 / 2}} for n, one in enumerate(sides)]
    toy_runs.write_rows(tmp_path / "rated.jsonl", rated)
    keys = {
        "recipe": "armorm", "model": str(base), "data": [str(tmp_path / "pairs.jsonl")],
        "eval": {"last": 5},
        "armorm": {"rated": [str(tmp_path / "rated.jsonl")], "attributes": ["good"],
                   "verbosity": None, "gating": {"steps": 3, "hidden_dim": 8}},
    }  # fmt: skip
    (tmp_path / "armorm.yaml").write_text(json.dumps(keys))
    common = ["train-reward", str(tmp_path / "armorm.yaml"), "--quiet"]
    folders = {name: tmp_path / name for name in ("one", "two")}
    assert main([*common, f"run_dir={folders['one']}"]) == 0
    asked: list[int] = []
    monkeypatch.setattr(ScoringWorkers, "_ask", counted(ScoringWorkers._ask, asked))
    assert main([*common, f"run_dir={folders['two']}", "--gpus", "2"]) == 0
    assert len(asked) >= 3 + 6  # chunks of 512 conversations
    for file in ("rated.npy", "pairs.npy", "held_out.npy"):
        one, two = (folder / "features" / file for folder in folders.values())
        assert one.read_bytes() == two.read_bytes()
    weights = [folder / "model/model.safetensors" for folder in folders.values()]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def counted(ask: Callable[..., Any], calls: list[int]) -> Callable[..., Any]:
    def counting(*arguments: Any, **named: Any) -> Any:
        calls.append(1)
        return ask(*arguments, **named)

    return counting


@pytest.mark.thorough
def test_rankings_and_reports_of_two_workers_are_those_of_one_process(
    tmp_path: Path, two_gpus: None
) -> None:
    judge = tiny_judges.checkpoint(tmp_path / "judge")
    file = rows(tmp_path)
    rank = ["rank", "--quiet", str(file), "--judge", str(judge), "--batch-rows", "4"]
    pairs = [
        {"prompt": f"q{n}", "chosen": "good " * (1 + n % 5), "rejected": "bad " * (1 + n % 3)}
        for n in range(700)
    ]
    pairs[3]["chosen"] = "good " * 400  # longer than the judge reads
    data = toy_runs.write_rows(tmp_path / "pairs.jsonl", pairs)
    scorers = ["--judge", str(judge), "--reward", "function:length", "--reward"]
    scorers.append(str(tiny_rewards.checkpoint(tmp_path / "model", "llama")))
    evaluate = ["eval-reward", "--quiet", "--data", str(data), *scorers, "--bootstrap", "100"]
    found = []
    for number, gpus in enumerate(([], ["--gpus", "2"])):
        out = tmp_path / f"ranked-{number}.jsonl"
        assert main([*rank, "--out", str(out), *gpus]) == 0
        folder = tmp_path / f"report-{number}"
        assert main([*evaluate, "--out-dir", str(folder), *gpus]) == 0
        report = json.loads((folder / "report.json").read_text())
        for model in report["models"].values():
            assert model.pop("seconds") > 0
        found.append((out.read_bytes(), report, (folder / "scored.jsonl").read_bytes()))
    assert found[0] == found[1]
    assert found[0][1]["models"]["judge"]["failed_rows"] == 1


@pytest.mark.thorough
def test_a_dead_worker_is_replaced_and_rows_that_kill_end_the_command(
    tmp_path: Path, two_gpus: None, capsys: pytest.CaptureFixture[str]
) -> None:
    deadly = (
        "print('scores', len(completions))\n"
        "lives = Path(__file__).with_name('lives')\n"
        "if any(c.startswith('yes ' * 7) for c in completions) and (left := lives.read_text()):\n"
        "    lives.write_text(left[1:])\n"
        "    os.kill(os.getpid(), 9)\n"
        "return [len(c) / 10 for c in completions]"
    )
    scorer, lives = reward(tmp_path, deadly), tmp_path / "lives"
    common = ["score", str(rows(tmp_path, 9)), "--reward", scorer, "--batch-rows", "2"]
    lives.write_text("")
    assert main([*common, "--out", str(tmp_path / "one.jsonl")]) == 0
    capsys.readouterr()
    two = [*common, "--out", str(tmp_path / "two.jsonl"), "--gpus", "2"]
    lives.write_text("." * 9)
    assert main(two) == 1  # the seventh row kills whoever scores it
    last = capsys.readouterr().err.splitlines()[-1]
    assert says(last, "WorkerDiedError 3 workers died of the same rows")
    lives.write_text(".")
    assert main(two) == 0
    said = capsys.readouterr().err
    assert says(said, "worker died; starting another") and says(said, "prints: scores 4")
    assert says(said, "going on behind 6 finished rows")
    assert (tmp_path / "two.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_ctrl_c_ends_the_workers_too(tmp_path: Path, number: int) -> None:
    slow = LOGGED.replace("0.2", "100 if completions[0].startswith('yes yes yes yes') else 0")
    script = tmp_path / "with_gpus.py"
    script.write_text(WITH_GPUS)
    line = ["score", str(rows(tmp_path)), "--reward", reward(tmp_path, slow), "--gpus", "2"]
    # a session of its own: the terminal sends the signal to everyone in it
    process = subprocess.Popen(
        [sys.executable, str(script), *line, "--batch-rows", "1"],
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    log, partial = tmp_path / "reward_function.py.log", tmp_path / ".rows.scored.jsonl.partial"
    end = time.monotonic() + 150
    while not (log.exists() and len(processes(tmp_path)) == 2 and partial.exists()):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.1)
    os.killpg(process.pid, number)
    said = process.communicate(timeout=120)[1]  # Ray takes its time on a busy machine
    assert process.returncode == 128 + number, said
    assert says(said.splitlines()[-1], "raft: interrupted; the same command goes on from here")
    assert "Traceback" not in said
    # workers see that their cluster is gone; the call that one is in would take 100 s
    end = time.monotonic() + 30
    while alive := [pid for pid in processes(tmp_path) if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end, alive
        time.sleep(0.1)


@pytest.mark.thorough
def test_a_server_answers_from_both(tmp_path: Path, two_gpus: None) -> None:
    # each call waits for another one: one worker alone would wait for ever
    meeting = (
        "here = Path(__file__).with_name(f'pid-{os.getpid()}')\n"
        "here.touch()\n"
        "while len(list(here.parent.glob('pid-*'))) < 2: time.sleep(0.05)\n"
        "return [len(c) / 10 for c in completions]"
    )
    spec = read_spec(reward(tmp_path, meeting), {})
    groups = [{"prompt": "a", "responses": ["yes", "no"]}]
    with on_gpus(2, [spec]) as place, served(build_app(place(lambda: build_reward(spec)))) as url:
        with ThreadPoolExecutor(2) as clients:
            asked = [
                clients.submit(httpx.post, f"{url}/score", json={"groups": groups}, timeout=120)
                for _ in range(2)
            ]
        answers = [one.result().json() for one in asked]
        assert httpx.get(f"{url}/health").json()["routes"] == ["/get_reward", "/score"]
    with on_gpus(None, [spec]) as place:
        assert place is here
    (tmp_path / "pid-1").touch()
    group = Group(Prompt("a", "a"), (Completion("yes"), Completion("no")), 0)
    assert [one["scores"] for one in answers] == [build_reward(spec).score_groups([group])] * 2


def test_more_gpus_than_there_are(
    tmp_path: Path, two_gpus: None, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tiny_rewards.checkpoint(tmp_path / "model", "llama")
    line = ["score", "--quiet", str(rows(tmp_path)), "--reward", str(model), "--gpus"]
    assert says(refusal(capsys, *line, "3"), "--gpus 3: this machine has 2 free GPUs. fewer")
    # what building a reward says comes back
    (model / "config.json").write_text("{}")
    assert says(refusal(capsys, *line, "2"), "config.json")
