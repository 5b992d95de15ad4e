"""What a config may say: overrides, typos, contradictions, and the configs that we ship."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import toy_runs
import yaml
from hypothesis import given
from hypothesis import strategies as st
from wording import says, words

from raft.cli.main import main
from raft.config.load import describe_keys, known_keys, load_config, make_config
from raft.config.train_reward import load_train_config
from rollout.data.overrides import apply_override
from rollout.types import InputError

ROOT = Path(__file__).parents[3]
RUN_CONFIGS = sorted(
    path
    for path in (ROOT / "configs").rglob("*.yaml")
    if {"policy", "prompts", "reward"} <= (yaml.safe_load(path.read_text()) or {}).keys()
)

# the keys of the design; users' files rely on them
KEPT = [
    "run_dir",
    "seed",
    "iterations",
    "policy.model",
    "policy.engine",
    "policy.dtype",
    "prompts.path",
    "prompts.per_iteration",
    "sampling.k",
    "sampling.temperature",
    "sampling.max_new_tokens",
    "sampling.seed_per_prompt",
    "reward.kind",
    "reward.model",
    "gold",
    "select.strategy",
    "train.learning_rate",
    "train.epochs",
    "train.batch_size",
    "train.lora",
    "eval.prompts",
    "cluster.address",
    "cluster.rollout_workers",
    "cluster.reward_workers",
]


def refused(root: Path, **sections: Any) -> str:
    """The one line that refuses these settings."""
    with pytest.raises(InputError) as caught:
        make_config(toy_runs.settings(root, **sections), "run.yaml")
    message = str(caught.value)
    assert "\n" not in message and message.startswith("run.yaml: ")
    return message.removeprefix("run.yaml: ")


def overridden(root: Path, *overrides: str) -> Any:
    return load_config(toy_runs.config_file(root), list(overrides))


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda path: str(path.relative_to(ROOT)))
def test_our_configs_are_valid_and_say_how_to_run_them(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAFT_DATA", "/data")
    load_config(path)
    first = path.read_text().splitlines()[0]
    assert re.fullmatch(rf"# raft run {re.escape(str(path.relative_to(ROOT)))}( .*)?", first)


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda p: p.name)
def test_validate_tells_runs_from_trainings(
    path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RAFT_DATA", "/data")
    for check in ("raft.runs.check.check_run", "raft.reward_training.check.check_training"):
        monkeypatch.setattr(check, lambda *_, **__: None)  # no file is there
    assert main(["validate", str(path)]) == 0
    training = path.parent.name == "reward"
    recipe = yaml.safe_load(path.read_text()).get("recipe")
    what = f"raft train-reward (recipe {recipe})" if training else "raft run"
    assert capsys.readouterr().out == f"{path}: valid, for {what}\n"
    # neither command takes the other's for its own
    load, other = (load_config, "train-reward") if training else (load_train_config, "run")
    with pytest.raises(InputError, match=f"raft {other} "):
        load(path)


def test_validate_complains_of_a_training_as_train_reward_does(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rm.yaml").write_text("run_dir: r\nmodel: m\ndata: [d]\ntrain: {epochs: 0}\n")
    said = []
    for command in ("validate", "train-reward"):
        assert main([command, str(tmp_path / "rm.yaml"), "recipe=grm", "lambda=1"]) == 2
        said.append(capsys.readouterr().err)
    assert said[0] == said[1] and said[0].count("\n") == 1
    assert "train.epochs: is 0, not more than 0" in said[0]
    assert says(said[0], "lambda: unknown key `raft train-reward --keys`")


def test_there_are_configs() -> None:
    assert RUN_CONFIGS


def test_the_promised_keys_exist() -> None:
    assert set(KEPT) <= set(known_keys())
    described = "\n".join(describe_keys())
    assert all(re.search(rf"^{re.escape(key)}[ .]", described, re.MULTILINE) for key in KEPT)


@pytest.mark.parametrize(
    ("section", "key", "meant"),
    [
        ("sampling", "temprature", "sampling.temperature"),
        ("train", "learning_rte", "train.learning_rate"),
        ("prompts", "per_iter", "prompts.per_iteration"),
    ],
)
def test_a_typo_is_refused_with_the_key_that_was_meant(
    tmp_path: Path, section: str, key: str, meant: str
) -> None:
    message = refused(tmp_path, **{section: {key: 1}})
    assert says(message, f"{section}.{key}: unknown key did you mean {meant}")


def test_every_complaint_is_said_at_once(tmp_path: Path) -> None:
    message = refused(tmp_path, sampling={"k": 0}, train={"epochs": -1}, iterationz=3)
    assert "sampling.k: " in message and "train.epochs: " in message
    assert says(message, "iterationz: unknown key did you mean iterations")


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        ({"sampling": {"k": 2}, "select": {"strategy": "top_m", "m": 3}}, "select.m: 3"),
        ({"sampling": {"k": 1}, "select": {"strategy": "best_and_worst"}}, "sampling.k: 1 is too"),
        ({"select": {"strategy": "top_m"}}, "select.m: top_m needs it"),
        ({"select": {"strategy": "best_of_n"}}, "select.strategy: 'best_of_n' is not known"),
        ({"select": {"minimum": 0.5}}, "select.minimum: best_of_k takes no arguments"),
        ({"select": {"reject_pattern": "("}}, "select: reject_pattern is not a regular expression"),
        ({"sampling": {"temperature": 0}}, "sampling: temperature 0 draws the same response k=4"),
        ({"sampling": {"temperature": 0, "k": 1}}, "eval.k: 2 at temperature 0 are all the same"),
        ({"eval": {"temperature": 0}}, "eval.k: 2 at temperature 0 are all the same"),
        ({"sampling": {"min_new_tokens": 50}}, "sampling: min_new_tokens 50 max_new_tokens 12"),
        ({"reward": {"kind": "model"}}, "reward kind model needs model"),
        ({"reward": {"function": None}}, "reward kind function needs function"),
        ({"gold": {"kind": "model"}}, "gold kind model needs model"),
        ({"eval": {"prompts": 0}}, "eval.prompts"),
        ({"policy": {"engine": "vlm"}}, "policy.engine: "),
        ({"seed": -1}, "seed: "),
        ({"iterations": 2.5}, "iterations: "),
        ({"prompts": None}, "prompts: "),
        ({"train": {"packing": "wrapped"}}, "train.packing: packing needs train.max_length"),
        ({"train": {"fsdp": True}}, "train.fsdp: shards over cluster.trainer_workers"),
        (
            {"train": {"batch_size": 6, "micro_batch_size": 4}},
            "train.batch_size: 6 is not a",
        ),
        ({"cluster": {"address": "inline", "trainer_workers": 2}}, "cluster: trainer_workers: 2"),
        ({"sampling": {"temperature": 3}}, "sampling.temperature: "),
    ],
)
def test_contradictions_are_refused_before_anything_starts(
    tmp_path: Path, sections: dict[str, Any], expected: str
) -> None:
    assert says(refused(tmp_path, **sections), expected)


def test_missing_keys_are_named(tmp_path: Path) -> None:
    settings = toy_runs.settings(tmp_path)
    del settings["policy"], settings["prompts"]["path"]
    with pytest.raises(InputError, match=words("policy: missing prompts.path: missing")):
        make_config(settings)


def test_overrides_win_over_the_file(tmp_path: Path) -> None:
    found = overridden(
        tmp_path,
        "sampling.k=16",
        "train.learning_rate=3e-4",
        "train.lora.r=4",
        "sampling.stop=['#', \"\\n\"]",
        "reward.arguments.lexicon.positive=[a, b]",
        "policy.dtype=float32",
        "run_dir=runs/a=b",
        "gold=null",
    )
    assert found.sampling.k == 16
    assert found.train.learning_rate == 3e-4
    assert found.train.lora.r == 4
    assert found.sampling.stop == ("#", "\n")
    assert found.reward.arguments["lexicon"]["positive"] == ["a", "b"]
    assert found.policy.dtype == "float32"
    assert found.run_dir == "runs/a=b"
    assert found.sampling.max_new_tokens == 12, "what is not overridden stays"


@given(st.floats(min_value=1e-30, max_value=1e30))
def test_a_number_in_any_notation_is_that_number(value: float) -> None:
    # also where no type is declared, as in a reward function's arguments
    for text in (repr(value), f"{value:.17e}", f"{value:.17E}".replace("E+", "E")):
        data: dict[str, Any] = {}
        apply_override(data, f"a.b={text}", "--set", "a=1")
        assert data == {"a": {"b": value}}


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("sampling.k", "write key=value"),
        ("=3", "write key=value"),
        ("sampling.k=[", "not valid YAML"),
        ("seed.x=1", "seed is no section"),
        ("sampling.kk=2", "sampling.kk: unknown key did you mean sampling.k"),
        ("sampling..k=2", "unknown key"),
        ("sampling.k=two", "sampling.k: "),
    ],
)
def test_a_wrong_override_is_one_line(tmp_path: Path, override: str, expected: str) -> None:
    with pytest.raises(InputError) as caught:
        overridden(tmp_path, override)
    assert says(caught.value, expected) and "\n" not in str(caught.value)


def test_entries_of_lists_are_overridden_by_their_number() -> None:
    data: dict[str, object] = {"data": [{"path": "a", "limit": 3}, {"path": "b"}], "a": {"a": 1}}
    for text in ("data.0.path=c", "data.1={path: d}", "a.a=2", "b.b.b=3"):
        apply_override(data, text, "override", "seed=1")
    assert data["data"] == [{"path": "c", "limit": 3}, {"path": "d"}]
    assert (data["a"], data["b"]) == ({"a": 2}, {"b": {"b": 3}})
    for text, said in (
        ("data.2.path=c", "'2' is no entry of the list data use 0 to 1"),
        ("data.path=c", "'path' is no entry of the list data"),
        ("data.-1.path=c", "'-1' is no entry of the list data"),
        ("data.0.path.x=c", "path is no section"),
    ):
        with pytest.raises(InputError) as caught:
            apply_override(data, text, "override", "seed=1")
        assert says(caught.value, said)


def test_the_header_of_every_config_is_a_command_that_its_keys_allow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAFT_DATA", "/data")
    for path in sorted((ROOT / "configs").rglob("*.yaml")):
        for line in path.read_text().splitlines():
            _, found, rest = line.partition(str(path.relative_to(ROOT)))
            overrides = [word for word in rest.split() if "=" in word]
            if line.startswith("# raft ") and found:
                load = load_train_config if " train-reward " in line else load_config
                load(path, overrides)


def test_what_is_missing_of_the_shared_data_is_told_with_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("stories_cpu", "reward/stories_pairs_cpu"):
        config = str(ROOT / f"configs/{name}.yaml")
        monkeypatch.setenv("RAFT_DATA", str(tmp_path))
        assert main(["validate", config]) == 2
        missing = capsys.readouterr().err
        monkeypatch.delenv("RAFT_DATA")
        monkeypatch.setattr("raft.config.paths.data_root", lambda: None)
        assert main(["validate", config]) == 2
        unset = capsys.readouterr().err
        monkeypatch.undo()
        for said in (missing, unset):
            assert says(said, "RAFT_DATA karpathy/tinyllamas raft demo") and said.count("\n") == 1


def test_an_empty_section_may_be_filled_by_an_override(tmp_path: Path) -> None:
    file = toy_runs.config_file(tmp_path, train=None)
    assert load_config(file, ["train.epochs=2"]).train.epochs == 2


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a: [1,", "not valid YAML"),
        (b"\xff\xfe\x00", "not valid YAML"),
        (b"seed: 2020-13-45", "not valid YAML"),
        (b"- a\n- b", "a config is a mapping of keys, not list"),
        (b"0", "a config is a mapping of keys, not int"),
        (b"", "run_dir: missing"),
    ],
)
def test_a_file_that_is_no_config(tmp_path: Path, content: bytes, expected: str) -> None:
    (tmp_path / "broken.yaml").write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_config(tmp_path / "broken.yaml")
    message = str(caught.value)
    assert expected in message and "broken.yaml" in message and "\n" not in message


def test_a_missing_file() -> None:
    with pytest.raises(InputError, match=r"nowhere\.yaml: no such config file"):
        load_config("nowhere.yaml")


def test_variables_are_filled_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAFT_DATA", "/data")
    monkeypatch.setenv("NAME", "a-b")
    found = make_config(
        toy_runs.settings(tmp_path, prompts={"path": "${RAFT_DATA}/p.jsonl"}, run_dir="r/${NAME}")
    )
    assert (found.prompts.path, found.run_dir) == ("/data/p.jsonl", "r/a-b")
    assert "${NONE} is not set" in refused(tmp_path, run_dir="${NONE}/r")


def test_the_resolved_config_is_a_config(tmp_path: Path) -> None:
    # what a run writes into its folder can be run again
    first = toy_runs.config(tmp_path, train={"lora": {"r": 4}}, select={"min_chars": 3})
    again = yaml.safe_load(yaml.safe_dump(first.model_dump(mode="json")))
    assert make_config(again) == first


def test_defaults_that_a_server_has_are_told() -> None:
    from inspect import signature

    from rewards.remote.client import RemoteReward

    lines = {line.split()[0]: line for line in describe_keys()}
    own = signature(RemoteReward).parameters
    for name in ("timeout", "concurrency", "batch_size", "retries", "backoff"):
        assert f"default: {own[name].default:g}" in lines[f"reward.{name}"]


@pytest.mark.parametrize("key", ["min_score", "minimum"])
def test_a_threshold_is_read_under_its_old_name(tmp_path: Path, key: str) -> None:
    # the bound of a threshold is the strategy's: as a filter it would count samples as refused
    select = toy_runs.config(tmp_path, select={"strategy": "threshold", key: 0.5}).select
    assert select.arguments() == {"min_score": 0.5}
    assert select.filters().get("min_score") is None
    assert "select.minimum" not in known_keys()


def test_a_wrong_key_of_sampling_is_told_with_the_likely_one(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"sampling.top_q: unknown key.*sampling.top_[pk]"):
        toy_runs.config(tmp_path, sampling={"top_q": 1})


@pytest.mark.parametrize("address", ["nonsense", "host", "host:port", ":6379", "h:0", "http://h:1"])
def test_an_address_that_is_none(tmp_path: Path, address: str) -> None:
    with pytest.raises(InputError, match=r"cluster\.address.*host:port"):
        toy_runs.config(tmp_path, cluster={"address": address})
    assert toy_runs.config(tmp_path, cluster={"address": "node-1:6379"})
