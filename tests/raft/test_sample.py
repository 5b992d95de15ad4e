"""`raft sample`: K responses to each prompt of a file, drawn once, whatever interrupts it."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import toy_runs
from toy_runs import write_rows
from wording import refusal, says

import raft.collect
from raft.cli.main import main
from rollout.engines.toy import ToyEngine, ToyTokenizer
from rollout.seeds import derive_seed
from rollout.storage.rollout_store import RolloutStore
from rollout.types import Prompt, Sampling

COMMON = ("--policy", "policy", "-n", "3", "--max-new-tokens", "9", "--inline", "--quiet")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder with a toy policy and twenty prompts that have a column of their own."""
    toy_runs.settings(tmp_path)
    monkeypatch.chdir(tmp_path)
    write_rows(
        tmp_path / "prompts.jsonl",
        [{"id": f"p{k}", "prompt": f"tree river {k}", "answer": str(k)} for k in range(20)],
    )
    return tmp_path


def sample(*arguments: str) -> int:
    return main(["sample", "prompts.jsonl", *COMMON, *arguments])


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    return refusal(capsys, "sample", *arguments)


class Stop:
    """Ctrl-C when so many groups are stored."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, after: int) -> None:
        whole = RolloutStore.add_samples
        left = [after]

        def add(store: RolloutStore, group: Any) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            whole(store, group)

        monkeypatch.setattr(RolloutStore, "add_samples", add)


def test_rows_are_a_runs_rollouts_without_scores(home: Path) -> None:
    assert sample() == 0
    found = toy_runs.rows(home / "prompts.sampled.jsonl")
    assert [row["id"] for row in found] == [f"p{k}" for k in range(20)]
    toy_runs.config_file(home, iterations=1, eval={"prompts": 4}, prompts={"per_iteration": 4})
    assert main(["run", "run.yaml", "--quiet"]) == 0
    rollouts = toy_runs.rows(home / "run/iterations/001/rollouts.jsonl")
    assert set(found[0]) - {"answer"} == set(rollouts[0]) - {"scores"}
    # what the engine draws for a prompt by itself, and the prompt's own column
    engine, tokenizer = ToyEngine("policy"), ToyTokenizer(toy_runs.WORDS)
    for k in (0, 13):
        ids = tuple(tokenizer([f"tree river {k}"])["input_ids"][0])
        prompt = Prompt(f"p{k}", f"tree river {k}", token_ids=ids)
        drawn = next(engine.generate([prompt], Sampling(3, max_new_tokens=9),
                                     derive_seed(0, "sample")))  # fmt: skip
        assert found[k]["responses"] == [one.text for one in drawn.completions]
        assert found[k]["token_ids"] == [list(one.token_ids) for one in drawn.completions]
        assert found[k]["answer"] == str(k)


@pytest.mark.parametrize("after", [0, 1, 7, 19])
def test_an_interrupted_command_goes_on_and_draws_nothing_twice(
    home: Path, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    assert sample("--out", "straight.jsonl") == 0
    with monkeypatch.context() as patched:
        Stop(patched, after)
        assert sample() == 130
    assert not (home / "prompts.sampled.jsonl").exists()
    samples = home / ".prompts.sampled.samples"
    samples.write_bytes(samples.read_bytes() + b'{"id": "p19", "resp')  # a kill tears the last row
    asked: list[str] = []
    whole = ToyEngine.generate

    def generate(engine: ToyEngine, prompts: Any, *rest: Any, **named: Any) -> Any:
        asked.extend(prompt.id for prompt in prompts)
        return whole(engine, prompts, *rest, **named)

    monkeypatch.setattr(ToyEngine, "generate", generate)
    assert sample() == 0
    assert asked == [f"p{k}" for k in range(after, 20)]
    straight = (home / "straight.jsonl").read_bytes()
    assert (home / "prompts.sampled.jsonl").read_bytes() == straight
    assert sorted(path.name for path in home.glob(".prompts*")) == [
        ".prompts.sampled.jsonl.settings"
    ]


def test_the_same_command_again_does_nothing(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert sample() == 0
    before = (home / "prompts.sampled.jsonl").stat().st_mtime_ns
    monkeypatch.setattr(ToyEngine, "generate", None)
    capsys.readouterr()
    assert sample("--json") == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["rows"], summary["responses"], summary["new_rows"]) == (20, 60, 0)
    assert (home / "prompts.sampled.jsonl").stat().st_mtime_ns == before


def test_large_jobs_are_drawn_in_parts_and_drawn_the_same(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert sample("--out", "straight.jsonl") == 0
    monkeypatch.setattr(raft.collect, "_SAMPLES_AT_A_TIME", 10)
    assert sample() == 0
    assert sample("--out", "two.jsonl", "--set", "cluster.rollout_workers=2") == 0
    straight = (home / "straight.jsonl").read_bytes()
    assert (home / "prompts.sampled.jsonl").read_bytes() == straight
    assert (home / "two.jsonl").read_bytes() == straight


def test_other_settings_and_others_files_are_not_touched(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    common = ("prompts.jsonl", *COMMON)
    (home / "mine.jsonl").write_text("precious\n")
    assert "mine.jsonl: is there already" in refused(capsys, *common, "--out", "mine.jsonl")
    assert (home / "mine.jsonl").read_text() == "precious\n"
    with monkeypatch.context() as patched:
        Stop(patched, 4)
        assert sample() == 130
    capsys.readouterr()
    message = refused(capsys, *common, "--temperature", "0.5")
    assert "begun by an interrupted command" in message
    assert "--temperature 1.0 → 0.5" in message
    assert sample() == 0
    message = refused(capsys, *common, "--seed", "1")
    assert "prompts.sampled.jsonl: is there already, under other settings (seed 0 → 1)" in message
    write_rows(home / "prompts.jsonl", [{"id": "p0", "prompt": "house"}])
    assert "(prompts)" in refused(capsys, *common)
    assert sample("--restart") == 0
    assert len(toy_runs.rows(home / "prompts.sampled.jsonl")) == 1


def test_one_command_at_a_time(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rollout.storage.output import OutputFiles

    with OutputFiles([home / "prompts.sampled.jsonl"], {}):
        assert "another command is writing it" in refused(capsys, "prompts.jsonl", *COMMON)
    assert sample() == 0


def test_prompts_of_other_forms_and_columns_that_would_mislead(home: Path) -> None:
    turns = "\n\nHuman: tree?\n\nAssistant:"
    write_rows(
        home / "hh.jsonl", [{"chosen": f"{turns} good", "rejected": f"{turns} bad", "source": 1}]
    )
    command = ("hh.jsonl", *COMMON, "--template", "hh")
    assert main(["sample", *command]) == 0
    (row,) = toy_runs.rows(home / "hh.sampled.jsonl")
    assert row["prompt"] == [{"role": "user", "content": "tree?"}]
    # with chosen and rejected, a row could be read in two ways
    assert row["source"] == 1 and not {"chosen", "rejected"} & row.keys()
    assert main(["score", "--quiet", "--reward", "function:length", "hh.sampled.jsonl"]) == 0
    (home / "corpus.txt").write_text("tree house river good\n\nriver\n")
    assert main(["sample", "corpus.txt", *COMMON, "--set", "prompts.first_words=2"]) == 0
    assert [row["prompt"] for row in toy_runs.rows(home / "corpus.sampled.jsonl")] == ["tree house"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("missing.jsonl",), "missing.jsonl: no such file"),
        (("prompts.jsonl", "--policy", "./nowhere"), "--policy: no such folder ./nowhere"),
        (("prompts.jsonl", "-n", "0"), "--num-responses: 0 is less than 1"),
        (("prompts.jsonl", "--temperature", "0"), "set k: 1"),
        (("prompts.jsonl", "--set", "train.epochs=2"), "sample has no such key"),
        (("prompts.jsonl", "--set", "sampling.top_q=1"), "did you mean --top-p"),
        (("prompts.jsonl", "--set", "sampling.top_p"), "write key=value"),
        (("prompts.jsonl", "--out", "-"), "needs a file"),
        (("prompts.jsonl", "--out", "x.txt"), "x.txt .jsonl"),
        (("prompts.jsonl", "--out", "policy"), "is a folder"),
        (("prompts.jsonl", "--max-new-tokens", "600"), "do not fit in the model's 512"),
    ],
)
def test_wrong_input_is_one_line(
    home: Path, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], message: str
) -> None:
    before = set(home.iterdir())
    file, *rest = arguments
    assert says(refused(capsys, file, *COMMON, *rest), message)
    assert set(home.iterdir()) == before


@pytest.mark.ray
@pytest.mark.vllm
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed")
def test_by_default_on_ray_with_vllm(home: Path, raft_data: Path) -> None:
    model = raft_data / "models/stories260k"
    if not model.is_dir():
        pytest.skip(f"no {model}")
    write_rows(home / "openings.jsonl", [{"prompt": "Once upon a time"}, {"prompt": "Tom had a"}])
    command = ["sample", "openings.jsonl", "--policy", str(model), "-n", "5", "--quiet"]
    assert main([*command, "--max-new-tokens", "12", "--dtype", "float32"]) == 0
    rows = toy_runs.rows(home / "openings.sampled.jsonl")
    assert [row["prompt"] for row in rows] == ["Once upon a time", "Tom had a"]
    assert all(len(set(row["responses"])) > 1 and len(row["responses"]) == 5 for row in rows)
