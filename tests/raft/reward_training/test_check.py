"""What `raft validate` and `raft train-reward` find before a model is loaded."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from safetensors.numpy import save_file
from toy_runs import write_rows
from wording import refusal, says

from raft.cli.main import main
from raft.config.train_reward import make_train_config
from raft.reward_training.check import check_training
from rollout.types import InputError

PAIRS = [
    {"prompt": f"question {n}", "chosen": f"yes {n}", "rejected": f"no {n}"} for n in range(20)
]


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A folder with the files of a model, none of which can be computed with."""
    folder = tmp_path / "base"
    folder.mkdir()
    config = {"model_type": "llama", "max_position_embeddings": 64}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer_config.json").write_text("{}")
    save_file({"w": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return folder


def settings(root: Path, **more: Any) -> dict[str, Any]:
    if not (root / "pairs.jsonl").exists():
        write_rows(root / "pairs.jsonl", PAIRS)
    data = [str(root / "pairs.jsonl")]
    return {"run_dir": str(root / "run"), "model": str(root / "base"), "data": data, **more}


def refused(root: Path, **more: Any) -> str:
    with pytest.raises(InputError) as caught:
        check_training(make_train_config(settings(root, **more)), hub=False)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.slow
def test_what_is_whole_passes_and_nothing_heavy_is_imported(tmp_path: Path, base: Path) -> None:
    file = tmp_path / "rm.yaml"
    file.write_text(yaml.safe_dump(settings(tmp_path, eval={"last": 5})))
    program = (
        "import sys; from raft.cli.main import main; assert main(sys.argv[1:]) == 0; "
        "print({'torch', 'transformers', 'ray', 'vllm', 'trl'} & sys.modules.keys())"
    )
    for command in (["validate", str(file)], ["train-reward", str(file), "--check"]):
        done = subprocess.run(
            [sys.executable, "-c", program, *command],
            capture_output=True, text=True, timeout=60, check=True,
        )  # fmt: skip
        assert done.stdout.splitlines()[-1] == "set()" and done.stderr == ""
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({"model": "./nowhere"}, "model: no such folder ./nowhere"),
        ({"data": ["nowhere.jsonl"]}, "data: nowhere.jsonl: no such file"),
        ({"data": [{"path": "pairs.jsonl", "sides": 1}]}, "data: 'sides' is not known"),
        ({"data": [{"path": "pairs.jsonl", "format": "hhh"}]}, "data: 'hhh'"),
        ({"eval": {"data": ["nowhere.jsonl"]}}, "eval.data: nowhere.jsonl: no such file"),
        ({"eval": {"last": 20}}, "20"),
        ({"recipe": "armorm", "armorm": {"rated": ["nowhere.jsonl"]}}, "no chat template"),
        ({"recipe": "pairwise"}, "no chat template"),
        ({"format": "chat"}, "no chat template"),
        ({"chat_template": "nowhere.jinja"}, "chat_template: nowhere.jinja readable"),
        ({"max_length": 65}, "max_length: is 65 takes 64 tokens"),
        ({"train": {"optimizer": "adam"}}, "train.optimizer: 'adam' is not known adamw_torch"),
        (
            {"recipe": "hh", "sft": {"optimizer": "adam"}},
            "sft.optimizer: 'adam' is not known",
        ),
    ],
)
def test_what_would_fail_later_is_named(
    tmp_path: Path, base: Path, more: dict[str, Any], expected: str
) -> None:
    assert says(refused(tmp_path, **more), expected)
    assert not (tmp_path / "run").exists()


def test_every_optimizer_that_transformers_knows_passes(tmp_path: Path, base: Path) -> None:
    from transformers.training_args import OptimizerNames

    for name in (OptimizerNames.ADAMW_TORCH, OptimizerNames.SGD, list(OptimizerNames)[-1]):
        train = {"optimizer": name.value}
        check_training(make_train_config(settings(tmp_path, train=train)), hub=False)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda base: (base / "config.json").unlink(), "no config.json"),
        (lambda base: (base / "config.json").write_text("{"), "config.json: is not JSON"),
        (lambda base: (base / "model.safetensors").unlink(), "has no weights"),
        (lambda base: (base / "model.safetensors").write_bytes(b""), "model.safetensors: is empty"),
        (lambda base: os.truncate(base / "model.safetensors", 70), "not a whole safetensors file"),
        (
            lambda base: (base / "model.safetensors").write_text(
                "version https://git-lfs.github.com/spec/v1\n"
            ),
            "Git LFS",
        ),
        (
            lambda base: (base / "model.safetensors").rename(
                (base / "model.safetensors.index.json").write_text(
                    '{"weight_map": {"w": "model-1.safetensors"}}'
                )
                and base / "elsewhere"
            ),
            "lacks model-1.safetensors",
        ),
        (lambda base: (base / "tokenizer_config.json").unlink(), "has no tokenizer"),
        (lambda base: (base / "tokenizer.json").write_text("{"), "tokenizer.json: is not JSON"),
    ],
)
def test_a_model_whose_files_are_not_whole(
    tmp_path: Path, base: Path, damage: Callable[[Path], object], expected: str
) -> None:
    damage(base)
    message = refused(tmp_path)
    assert message.startswith("model: ") and says(message, expected)


def test_a_run_dir_that_cannot_be(tmp_path: Path, base: Path) -> None:
    (tmp_path / "file").touch()
    assert refused(tmp_path, run_dir=str(tmp_path / "file" / "run")).startswith("run_dir=")


@pytest.mark.parametrize("packed", [False, True])
def test_large_data_is_read_to_its_first_pair(tmp_path: Path, base: Path, packed: bool) -> None:
    large = tmp_path / ("large.jsonl.gz" if packed else "large.jsonl")
    rows = "".join(json.dumps(row) + "\n" for row in PAIRS)
    noise = os.urandom(1 << 20).hex() * (1 if packed else 8)
    text = (rows + json.dumps({"prompt": noise}) + "\n" + "no JSON\n").encode()
    large.write_bytes(gzip.compress(text, 1) if packed else text)
    if packed:
        large.write_bytes(large.read_bytes() + gzip.compress(b"\n" * (1 << 20), 0))
    check_training(make_train_config(settings(tmp_path, data=[str(large)])), hub=False)
    # what the first row already tells is told
    text = text.replace(b"chosen", b"good")
    large.write_bytes(gzip.compress(text, 0) if packed else text)
    message = refused(tmp_path, data=[str(large)])
    assert message.startswith(f"{large}:1: ")


def test_a_training_that_starts_finds_the_same(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    os.truncate(base / "model.safetensors", 70)
    (tmp_path / "rm.yaml").write_text(yaml.safe_dump(settings(tmp_path)))
    told = {
        refusal(capsys, command, tmp_path / "rm.yaml") for command in ("validate", "train-reward")
    }
    assert len(told) == 1 and not (tmp_path / "run").exists()


def test_the_keys_of_a_training(
    tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "rm.yaml").write_text(yaml.safe_dump(settings(tmp_path)))
    assert main(["validate", "--keys", str(tmp_path / "rm.yaml")]) == 0
    listed = capsys.readouterr().out
    assert main(["train-reward", "--keys"]) == 0
    assert listed == capsys.readouterr().out
