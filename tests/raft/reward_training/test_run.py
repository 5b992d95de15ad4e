"""`raft train-reward`: configs, the run folder, going on after a kill, and every recipe."""

from __future__ import annotations

import dataclasses
import json
import math
import re
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import pytest
import tiny_judges
import tiny_rewards
import tiny_training as tiny
import yaml
from reward_ranks import train_in_two
from wording import says, words

from raft.cli import reward_models as cli_train
from raft.cli.options import Parser
from raft.config.load import describe_keys
from raft.config.train_reward import (
    ArmoRMConfig,
    TrainRewardConfig,
    load_train_config,
    make_train_config,
)
from raft.reward_training.recipes import resolved
from raft.reward_training.run import train_reward
from raft.runs.metrics import read_metrics
from rewards import load_judge, load_reward
from rewards.data.pair import Pair
from rollout.errors import InputError

ROOT = Path(__file__).parents[3]
CONFIGS = sorted((ROOT / "configs" / "reward").glob("*.yaml"))
PAIRS = tiny.made_pairs(40)
QUICK = {"learning_rate": 3e-3, "epochs": 1, "batch_size": 8}


def rows(pairs: Sequence[Pair]) -> list[dict[str, Any]]:
    return [
        {"id": p.id, "prompt": p.prompt[0]["content"], "chosen": p.chosen, "rejected": p.rejected,
         "margin": p.margin}
        for p in pairs
    ]  # fmt: skip


def write_rows(file: Path, given: Sequence[dict[str, Any]]) -> str:
    file.write_text("".join(json.dumps(row) + "\n" for row in given))
    return str(file)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A starting model and a file of pairs."""
    folder = tmp_path_factory.mktemp("train")
    made = tiny.tokenizer(tiny.texts_of(PAIRS), 400)
    tiny.language_model(folder / "base", made)
    write_rows(folder / "pairs.jsonl", rows(PAIRS))
    return folder


def settings(root: Path, run_dir: Path, **more: Any) -> dict[str, Any]:
    return {
        "run_dir": str(run_dir), "model": str(root / "base"),
        "data": [str(root / "pairs.jsonl")], "eval": {"share": 0.25}, "train": QUICK, **more,
    }  # fmt: skip


def run(root: Path, run_dir: Path, **more: Any) -> dict[str, Any]:
    return trained(settings(root, run_dir, **more))


def trained(given: dict[str, Any]) -> dict[str, Any]:
    """All metrics of the recipe, also those that no card reads."""
    return cast("dict[str, Any]", train_reward(make_train_config(given))[1])


def refused(root: Path, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        make_train_config(settings(root, root / "run", **more), "rm.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value).removeprefix("rm.yaml: ")


def command(*arguments: str) -> int:
    """As `raft train-reward …` calls it."""
    parser = Parser()
    made = parser.add_subparsers()

    def add(name: str, run: Any, text: str, examples: str, **_: Any) -> Parser:
        one = made.add_parser(name, help=text, epilog=examples)
        one.set_defaults(command=run)
        return one

    cli_train.add_train_reward(add)
    options = parser.parse_args(["train-reward", *arguments])
    return options.command(options)


# configs


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_our_configs_are_valid_and_say_how_to_run_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFT_DATA", "/data")
    config = load_train_config(path)
    first = path.read_text().splitlines()[0]
    name = re.escape(str(path.relative_to(ROOT)))
    assert re.fullmatch(rf"# raft train-reward {name}( .*)?", first)
    assert make_train_config(resolved(config)).recipe == config.recipe


def test_there_is_a_config_for_each_of_these() -> None:
    names = {path.stem for path in CONFIGS}
    assert {"bradley_terry_llama3", "mistral_unified_feedback", "hh_open_llama_3b"} <= names
    assert {"pairwise_llama3_8b", "stories_pairs_cpu"} <= names


def test_the_resolved_config_says_the_same_and_more(root: Path, tmp_path: Path) -> None:
    config = make_train_config(settings(root, tmp_path, recipe="hh", train={"lora": {"r": 4}}))
    found = cast("dict[str, Any]", resolved(config))
    assert (found["train"]["learning_rate"], found["sft"]["learning_rate"]) == (5e-6, 2e-5)
    assert (found["max_length"], found["over_long"]) == (512, "drop")
    assert found["train"]["lora"]["r"] == 4
    assert resolved(make_train_config(found)) == found


def test_a_typo_is_refused_with_the_key_that_was_meant(root: Path) -> None:
    said = refused(root, train={"learning_rte": 1})
    assert says(said, "train.learning_rte: unknown key did you mean train.learning_rate")
    assert says(refused(root, los={}), "los: unknown key did you mean loss")


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"recipe": "ppo"}, "recipe: "),
        ({"data": []}, "data: "),
        ({"eval": {"share": 0.1, "count": 5}}, "share, count and last exclude each other"),
        ({"eval": {"share": 0.1, "data": ["x"]}}, "data are held out whole"),
        ({"recipe": "pairwise", "format": "hh"}, "format means nothing to recipe pairwise"),
        ({"recipe": "grm", "loss": {"center": 0.1}}, "loss means nothing to recipe grm"),
        ({"pairwise": {"orders": "both"}}, "pairwise means nothing to recipe bradley_terry"),
        ({"recipe": "hh", "sft": {"rest_of_test": True}}, "sft.rest_of_test needs eval.data"),
        ({"recipe": "armorm", "train": {}}, "recipe armorm needs the section armorm"),
        ({"train": {"warmup_ratio": 0.1, "warmup_steps": 5}}, "warmup_ratio and warmup_steps"),
        ({"train": {"schedule": "wavy"}}, "train.schedule: "),
        ({"loss": {"label_smoothing": 0.6}}, "loss.label_smoothing: "),
        ({"train": {"epochs": 0}}, "train.epochs: "),
    ],
)
def test_contradictions_are_refused(root: Path, more: dict[str, Any], expected: str) -> None:
    assert expected in refused(root, **more)


def test_sections_have_the_keys_of_what_they_are_for() -> None:
    from rewards.training.armorm_features import ArmoRMSettings

    def names(settings: Any) -> set[str]:
        return {field.name for field in dataclasses.fields(settings)}

    assert set(ArmoRMConfig.model_fields) - {"rated", "gating"} <= names(ArmoRMSettings)


def test_keys_and_check_train_nothing(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert command("--keys") == 0
    assert capsys.readouterr().out.splitlines() == describe_keys(TrainRewardConfig)
    file = tmp_path / "rm.yaml"
    file.write_text(yaml.safe_dump(settings(root, tmp_path / "run")))
    assert command(str(file), "--check") == 0
    assert capsys.readouterr().out == f"{file}: valid\n"
    assert not (tmp_path / "run").exists()
    with pytest.raises(InputError, match=words("config file")):
        command()
    with pytest.raises(InputError, match=words("nowhere.yaml no such config file")):
        command(str(tmp_path / "nowhere.yaml"))


# the run folder


@pytest.mark.slow
def test_the_folder_holds_model_card_and_records(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, folder = tmp_path / "rm.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(settings(root, folder)))
    assert command(str(file), "train.epochs=2", "--json") == 0
    told = json.loads(capsys.readouterr().out)
    assert told["model"] == str(folder / "model")
    stored = yaml.safe_load((folder / "config.yaml").read_text())
    assert (stored["train"]["epochs"], stored["train"]["optimizer"]) == (2.0, "adamw_torch")
    assert json.loads((folder / "env.json").read_text())["packages"]["torch"]
    card = (folder / "README.md").read_text()
    assert card == (folder / "model" / "README.md").read_text()
    for part in (
        f"**{told['eval/accuracy']:.2%}** of {told['pairs/held_out']} held-out pairs",
        f"Trained on {told['pairs/train']} pairs", "| format | `'chat'` |",
        "| bos | `'single'` |", "recipe `bradley_terry`", "train.learning_rate | `0.003`",
        str(root / "pairs.jsonl"),
    ):  # fmt: skip
        assert part in card
    metrics = cast("list[dict[str, Any]]", read_metrics(folder))
    assert metrics[0]["iteration"] == 0 and 0 <= metrics[0]["eval/accuracy"] <= 1
    assert all(math.isfinite(row["train/loss"]) for row in metrics[1:])
    assert metrics[-1]["eval/accuracy"] == told["eval/accuracy"]
    scores = load_reward(folder / "model").score([pair.conversation("chosen") for pair in PAIRS])
    assert scores.shape == (40,)


@pytest.mark.slow
def test_a_finished_run_is_left_alone_and_another_config_refused(
    root: Path, tmp_path: Path
) -> None:
    first = run(root, tmp_path)
    weights = tmp_path / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    assert run(root, tmp_path) == first
    assert weights.stat().st_mtime_ns == before
    with pytest.raises(InputError, match=r"belongs to another config .*train\.learning_rate"):
        run(root, tmp_path, train={**QUICK, "learning_rate": 1e-4})


@pytest.mark.slow
def test_the_same_command_goes_on_after_a_kill(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from raft.runs.folder import RunFolder

    more: dict[str, Any] = {"train": {**QUICK, "epochs": 2, "batch_size": 6}, "save_steps": 3}
    whole = run(root, tmp_path / "whole", **more)
    add = RunFolder.add_metrics

    def die(self: Any, iteration: int, phase: str, values: Any) -> Any:
        if iteration == 5:
            raise KeyboardInterrupt
        return add(self, iteration, phase, values)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RunFolder, "add_metrics", die)
        run(root, tmp_path / "killed", **more)
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-3").is_dir()
    assert run(root, tmp_path / "killed", **more) == whole
    rows = [read_metrics(tmp_path / name) for name in ("whole", "killed")]
    strip = [{k: v for k, v in r.items() if "per_second" not in k} for r in rows[0]]
    assert strip == [{k: v for k, v in r.items() if "per_second" not in k} for r in rows[1]]


@pytest.mark.slow
def test_a_number_that_is_not_known_is_null_and_said_in_words(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # 10 pairs of one prompt, each of which has its opposite: half are won
    one = [pair for pair in PAIRS if pair.prompt != PAIRS[0].prompt][:5]
    sides = [{"prompt": "Which?", "chosen": p.chosen, "rejected": p.rejected} for p in one]
    turned = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in sides]
    test = write_rows(tmp_path / "test.jsonl", sides + turned)
    file = tmp_path / "rm.yaml"
    file.write_text(yaml.safe_dump(settings(root, tmp_path / "run", eval={"data": [test]})))
    assert command(str(file)) == 0
    words = "50.00% of 10 held-out pairs (no interval: these pairs all have one prompt"
    assert words in capsys.readouterr().out
    assert words.replace("50.00%", "**50.00%**") in (tmp_path / "run" / "README.md").read_text()
    stored = (tmp_path / "run" / "result.json").read_text()
    assert "NaN" not in stored and json.loads(stored)["eval/accuracy_low"] is None
    assert command(str(file), "--json") == 0
    assert json.loads(capsys.readouterr().out)["eval/accuracy_high"] is None


def test_prompts_are_held_out_whole(root: Path, tmp_path: Path) -> None:
    from raft.reward_training.data import read_train_data

    data = read_train_data(make_train_config(settings(root, tmp_path)))
    assert data.shared == 0 and len(data.train) + len(data.held_out) == 40
    last = read_train_data(make_train_config(settings(root, tmp_path, eval={"last": 7})))
    assert [pair.id for pair in last.held_out] == [f"p{number}" for number in range(33, 40)]


# several processes


def weights(folder: Path) -> Any:
    from safetensors.numpy import load_file

    return load_file(folder / "model" / "model.safetensors")


def apart(one: Path, other: Path) -> float:
    left, right = weights(one), weights(other)
    assert left.keys() == right.keys()
    return max(float(abs(left[name] - right[name]).max()) for name in left)


@pytest.mark.thorough
@pytest.mark.slow
def test_two_processes_train_what_one_does(root: Path, tmp_path: Path) -> None:
    # 29 pairs, 4 a step: the last step is of one pair, which leaves the second process without
    more: dict[str, Any] = {"train": {**QUICK, "epochs": 2, "batch_size": 4},
                            "eval": {"count": 11}, "save_steps": 5, "log_steps": 1}  # fmt: skip
    alone = run(root, tmp_path / "one", **more)
    assert alone["pairs/train"] % 4 == 1
    file = tmp_path / "two.yaml"
    file.write_text(yaml.safe_dump(settings(root, tmp_path / "two", **more)))
    said = train_in_two(file)
    assert said.count("step 5: train/loss") == 1, "one process speaks"
    together = json.loads((tmp_path / "two" / "result.json").read_text())
    assert together["eval/loss"] == pytest.approx(alone["eval/loss"], abs=1e-4)
    exact = [key for key in alone if key.startswith("pairs/") or key == "eval/accuracy"]
    assert {key: together[key] for key in exact} == {key: alone[key] for key in exact}
    assert apart(tmp_path / "one", tmp_path / "two") < 1e-4
    assert not (tmp_path / "two" / "checkpoints").exists()

    # killed, the same command goes on; so does one process alone
    file.write_text(yaml.safe_dump(settings(root, tmp_path / "killed", **more)))
    train_in_two(file, kill_at="step 8: train/loss")
    assert (tmp_path / "killed" / "checkpoints" / "checkpoint-5").is_dir()
    assert not (tmp_path / "killed" / "model").exists()
    shutil.copytree(tmp_path / "killed", tmp_path / "handed over")
    assert "going on from step 5" in train_in_two(file)
    train_reward(make_train_config(settings(root, tmp_path / "handed over", **more)))
    for name in ("killed", "handed over"):
        assert apart(tmp_path / "one", tmp_path / name) < 1e-4


# recipes


@pytest.mark.slow
def test_hh_takes_what_the_test_set_leaves(root: Path, tmp_path: Path) -> None:
    test = write_rows(tmp_path / "test.jsonl", rows(tiny.made_pairs(20, seed=5)))
    found = run(
        root, tmp_path / "run", recipe="hh", eval={"data": [test], "last": 12},
        sft={**QUICK, "chunk": 64, "rest_of_test": True},
    )  # fmt: skip
    assert (found["pairs/train"], found["pairs/held_out"]) == (40, 12)
    without = run(
        root, tmp_path / "other", recipe="hh", eval={"data": [test], "last": 12},
        sft={**QUICK, "chunk": 64},
    )  # fmt: skip
    assert found["sft/steps"] > without["sft/steps"], "more text to learn from"
    assert found["reading"]["format"] == "hh"
    phases = {row["phase"] for row in _rows_of(tmp_path / "run")}
    assert {"sft", "train", "eval"} <= phases


def _rows_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_judge_is_trained_and_loads(root: Path, tmp_path: Path) -> None:
    from rewards.types import Comparison

    base = tiny.language_model(
        tmp_path / "base", tiny_judges.tokenizer(), max_position_embeddings=1024, pad_token_id=None
    )
    few = write_rows(tmp_path / "few.jsonl", rows(PAIRS[:8]))
    found = run(
        root, tmp_path / "run", recipe="pairwise", model=str(base), max_length=600,
        pairwise={"orders": "both"}, data=[few],
    )  # fmt: skip
    assert found["reading"] == {"format": "pairwise", "bos": "none", "max_length": 600}
    judge = load_judge(tmp_path / "run" / "model", kind="pairwise")
    comparison = Comparison(PAIRS[0].prompt, PAIRS[0].chosen, PAIRS[0].rejected)
    assert 0 < float(judge.compare([comparison])[0]) < 1
    assert "load_judge" in (tmp_path / "run" / "README.md").read_text()


@pytest.mark.slow
def test_grm_is_trained_and_found(root: Path, tmp_path: Path) -> None:
    found = run(root, tmp_path, recipe="grm", grm={"head_neurons": 16, "head_dropout": 0.0})
    reward = load_reward(tmp_path / "model")
    assert reward.kind == "grm" and 0 <= found["eval/accuracy"] <= 1


@pytest.mark.slow
def test_armorm_is_trained_and_found(root: Path, tmp_path: Path) -> None:
    base = tiny.language_model(
        tmp_path / "base", tiny_rewards.llama3_tokenizer(), pad_token_id=None
    )
    rated = [
        {"prompt": f"question {n}", "response": f"answer {'!' * n}", "helpfulness": n % 5,
         "correctness": n % 3, "coherence": 4, "complexity": n % 2, "verbosity": n % 4}
        for n in range(30)
    ]  # fmt: skip
    file = write_rows(tmp_path / "rated.jsonl", rated)
    more = settings(root, tmp_path / "run", recipe="armorm", model=str(base))
    del more["train"]
    more["armorm"] = {
        "rated": [{"path": file, "format": "helpsteer"}], "leave_out_unlabelled": True,
        "gating": {"hidden_dim": 8, "n_hidden": 1, "steps": 5, "batch_size": 8},
    }  # fmt: skip
    found = trained(more)
    assert load_reward(tmp_path / "run" / "model").kind == "armorm"
    assert found["rated/train"] == 30
    card = (tmp_path / "run" / "README.md").read_text()
    assert f"rated: {file} (helpsteer): 30 rows, 30 rated" in card
    assert "helpsteer-coherence: 30 labels, all 0.9: nothing to learn from" in card
    assert "helpsteer-coherence" not in found["attributes"]


# bad input


def test_bad_pairs_are_one_line(root: Path, tmp_path: Path) -> None:
    same = [{"prompt": f"q{n}", "chosen": "yes", "rejected": "yes"} for n in range(3)]
    cases = {
        "same": (same, "identical sides"),
        "empty": ([], "no pair"),
        "blank": ([{"prompt": "q", "chosen": "", "rejected": "no"}], "no pair is left"),
        "one": (rows(PAIRS[:1]), "none to train on"),
    }
    for name, (given, expected) in cases.items():
        file = write_rows(tmp_path / f"{name}.jsonl", given)
        with pytest.raises(InputError) as caught:
            run(root, tmp_path / name, data=[file])
        message = str(caught.value)
        assert expected in message and "\n" not in message, name
    with pytest.raises(InputError, match=r"no training pairs are left of .* longer than 5 tokens"):
        run(root, tmp_path / "long", max_length=5, over_long="drop")
    with pytest.raises(InputError, match="nowhere"):
        run(root, tmp_path / "nowhere", data=[str(tmp_path / "nowhere.jsonl")])


@pytest.mark.slow
def test_a_chat_template_may_be_a_file(root: Path, tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("{% for m in messages %}<{{ m['content'] }}>{% endfor %}")
    run(root, tmp_path / "run", chat_template=str(file))
    reward = load_reward(tmp_path / "run" / "model")
    assert reward.encoder.tokenizer.chat_template == file.read_text()
    with pytest.raises(InputError, match="is no template and no readable file"):
        run(root, tmp_path / "other", chat_template=str(tmp_path / "nowhere"))
