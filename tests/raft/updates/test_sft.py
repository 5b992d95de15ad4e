from __future__ import annotations

import json
import resource
import signal
from collections import Counter
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from sft_rank import build_sft, run_ranks, selected_rows

from raft.updates.optimizer import is_whole
from raft.updates.policy import merged_tensors
from raft.updates.rows import IGNORED, TrainingRow, concatenate_and_cut, sft_rows, training_order
from raft.updates.trainer import Update
from rollout.storage.files import refusal
from rollout.types import InputError

EOS = tiny.EOS_ID
LORA = {"r": 4, "alpha": 8, "dropout": 0.0, "target_modules": "all-linear"}
NO_DROPOUT: dict[str, Any] = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    made = tiny.checkpoints(root)
    made["gpt2_plain"] = tiny.checkpoint(root / "gpt2_plain", "gpt2", **NO_DROPOUT)
    return made


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return selected_rows(tmp_path_factory.mktemp("rows") / "selected.jsonl")


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def assert_identical(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []


def largest_difference(first: Path, second: Path) -> float:
    a, b = weights(first), weights(second)
    assert a.keys() == b.keys()
    return max(float((a[key] - b[key]).abs().max()) for key in a)


# rows


def test_labels_hide_the_prompt_and_add_nothing(rows: Path) -> None:
    stored = [json.loads(line) for line in rows.read_text().splitlines()]
    for row, source in zip(sft_rows(rows, "response"), stored, strict=True):
        prompt, response = source["prompt_token_ids"], source["token_ids"]
        assert row["input_ids"] == prompt + response
        assert row["labels"] == [-100] * len(prompt) + response
        # a finished sample is trained on its end; one that was cut gets none
        assert row["labels"].count(EOS) == response.count(EOS) == (response[-1] == EOS)
    assert {s["token_ids"][-1] == EOS for s in stored} == {True, False}
    for row in sft_rows(rows, "all"):
        assert row["labels"] == row["input_ids"]


def test_rows_longer_than_max_length_are_refused_not_cut(rows: Path) -> None:
    longest = max(len(row["input_ids"]) for row in sft_rows(rows, "all"))
    assert len(list(sft_rows(rows, "all", longest))) == 7
    with pytest.raises(InputError, match=f"{longest} tokens, more than {longest - 1}"):
        list(sft_rows(rows, "all", longest - 1))


@given(
    st.integers(1, 30), st.integers(1, 9), st.sampled_from([0.5, 1, 1.5, 2, 3]), st.integers(0, 99)
)
def test_training_order_is_a_permutation_per_epoch_in_whole_batches(
    rows: int, batch: int, epochs: float, seed: int
) -> None:
    order = training_order(rows, batch, epochs, seed)
    per_epoch = -(-rows // batch) * batch
    assert len(order) % batch == 0
    for start in range(0, len(order) - per_epoch + 1, per_epoch):
        epoch = Counter(order[start : start + per_epoch])
        assert epoch.pop(rows, 0) == per_epoch - rows  # rows without a loss fill it up
        assert epoch == Counter(range(rows))
    assert order == training_order(rows, batch, epochs, seed)
    if isinstance(epochs, int):
        assert len(order) == epochs * per_epoch


def test_order_differs_between_epochs_and_seeds() -> None:
    first, second = training_order(50, 10, 2, 0)[:50], training_order(50, 10, 2, 0)[50:]
    assert first != second
    assert first != training_order(50, 10, 1, 1)


def lmflow_group_texts(examples: dict[str, list[list[int]]], block: int) -> dict[str, Any]:
    """As in LMFlow's and the HF examples' `group_texts`."""
    concatenated = {k: [x for row in examples[k] for x in row] for k in examples}
    total = len(concatenated["input_ids"])
    total = (total // block) * block
    return {k: [t[i : i + block] for i in range(0, total, block)] for k, t in concatenated.items()}


def test_wrapped_packing_is_lmflows(rows: Path) -> None:
    made: list[Any] = list(sft_rows(rows, "response"))
    columns = {key: [row[key] for row in made] for key in ("input_ids", "labels")}
    expected = lmflow_group_texts(columns, 16)
    packed = concatenate_and_cut(made, 16)
    assert [row["input_ids"] for row in packed] == expected["input_ids"]
    assert [row["labels"] for row in packed] == expected["labels"]
    # LMFlow is left with nothing when there is less than a block; here it is kept
    assert concatenate_and_cut(made[:1], 1000) == made[:1]


def test_bfd_packing_keeps_every_label(rows: Path) -> None:
    # TRL packs, we label: labels must stay beside their tokens, and no row may be lost or cut
    from datasets import Dataset
    from trl.data_utils import pack_dataset

    made: list[Any] = list(sft_rows(rows, "response"))
    packed: Any = pack_dataset(Dataset.from_list(made), seq_length=64, strategy="bfd")
    found = []
    for block in packed:
        start = 0
        for length in block["seq_lengths"]:
            part = slice(start, start + length)
            found.append((block["input_ids"][part], block["labels"][part]))
            start += length
    assert sorted(found) == sorted((row["input_ids"], row["labels"]) for row in made)


# one update


def token_losses(folder: Path, row: TrainingRow) -> list[float]:
    """−log p of every trained token, from a forward pass by hand."""
    found = tiny.log_probs(folder, row["input_ids"])
    return [-lp for lp, label in zip(found, row["labels"][1:], strict=True) if label != IGNORED]


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2_plain", "gpt_neo"])
@pytest.mark.parametrize("loss_on", ["response", "all"])
def test_loss_is_the_mean_over_trained_tokens(
    folders: dict[str, Path], rows: Path, tmp_path: Path, family: str, loss_on: str
) -> None:
    # with a learning rate of almost zero the loss is that of the starting model: the mean over
    # steps of each step's token mean
    settings = {"learning_rate": 1e-12, "batch_size": 4, "micro_batch_size": 2}
    trainer = build_sft(str(folders[family]), loss_on=loss_on, **settings)
    metrics = trainer.train(Update(str(rows), 3, str(tmp_path / "out")))
    made = list(sft_rows(rows, loss_on))
    order = training_order(7, 4, 1, seed=3)
    steps = []
    for start in (0, 4):
        batch = [made[i] for i in order[start : start + 4] if i < 7]
        losses = [loss for row in batch for loss in token_losses(folders[family], row)]
        steps.append(sum(losses) / len(losses))
    assert metrics["train/loss"] == pytest.approx(sum(steps) / 2, rel=1e-5)
    assert metrics["train/steps"] == 2
    assert metrics["train/tokens"] == sum(len(row["input_ids"]) for row in made)
    assert metrics["train/loss_tokens"] == sum(
        len(token_losses(folders[family], row)) for row in made
    )
    assert json.loads((tmp_path / "out/train.json").read_text())["train/steps"] == 2


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2_plain", "gpt_neo"])
def test_update_equals_adam_by_hand(
    folders: dict[str, Path], rows: Path, tmp_path: Path, family: str
) -> None:
    # two steps of torch's AdamW on the token mean, with clipping, one row at a time
    from transformers import AutoModelForCausalLM

    trainer = build_sft(str(folders[family]), learning_rate=1e-3, batch_size=4)
    trainer.train(Update(str(rows), 0, str(tmp_path / "out")))
    model = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=0.0)
    made: list[Any] = list(sft_rows(rows, "response"))
    order = training_order(7, 4, 1, seed=0)
    for start in (0, 4):
        batch = [made[i] for i in order[start : start + 4] if i < 7]
        count = sum(sum(x != IGNORED for x in row["labels"][1:]) for row in batch)
        for row in batch:
            logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
            labels = torch.tensor(row["labels"][1:])
            loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum") / count
            loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "by_hand")
    # Adam turns a gradient that is all rounding (GPT-2's key biases have none) into a whole step,
    # so the bound holds for all weights but a few
    found, expected = weights(tmp_path / "out"), weights(tmp_path / "by_hand")
    off = [(found[key] - expected[key]).abs().flatten() for key in expected]
    assert float(torch.cat(off).quantile(0.999)) < 1e-6
    moved = [(found[key] - weights(folders[family])[key]).abs().flatten() for key in expected]
    assert float(torch.cat(moved).quantile(0.5)) > 1e-4


@pytest.mark.slow
def test_micro_batches_make_the_same_update(
    folders: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    for micro in (1, 2, 4):
        trainer = build_sft(
            str(folders["llama"]), learning_rate=1e-3, batch_size=4, micro_batch_size=micro
        )
        trainer.train(Update(str(rows), 0, str(tmp_path / f"{micro}")))
    # Adam's first steps are ± the learning rate; where a gradient is near its epsilon, rounding
    # shows, and how much is the processor's
    assert largest_difference(tmp_path / "1", tmp_path / "4") < 5e-5
    assert largest_difference(tmp_path / "2", tmp_path / "4") < 5e-5


def test_wrapped_packing_trains(folders: dict[str, Path], rows: Path, tmp_path: Path) -> None:
    # rows longer than a block are no error here: blocks ignore their ends
    trainer = build_sft(
        str(folders["llama"]), learning_rate=1e-3, batch_size=2, packing="wrapped", max_length=8
    )
    metrics = trainer.train(Update(str(rows), 0, str(tmp_path / "out")))
    blocks = concatenate_and_cut(list(sft_rows(rows, "response")), 8)
    assert metrics["train/steps"] == -(-len(blocks) // 2)


def test_packed_rows_make_the_update_of_rows_alone(
    folders: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    # all rows in one step, once as they are and once side by side in blocks of 64 tokens
    settings: dict[str, Any] = {"model": str(folders["llama"]), "learning_rate": 1e-3}
    build_sft(batch_size=7, **settings).train(Update(str(rows), 0, str(tmp_path / "alone")))
    packed = build_sft(batch_size=4, packing="bfd", max_length=64, **settings)
    metrics = packed.train(Update(str(rows), 0, str(tmp_path / "packed")))
    assert metrics["train/steps"] == 1
    assert largest_difference(tmp_path / "alone", tmp_path / "packed") < 5e-5


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "changes", "calls"),
    [
        ("llama", {}, 2),
        ("llama", {"gradient_checkpointing": True}, 4),
        ("llama", {"lora": {"r": 4}}, 2),
        ("gpt2_plain", {}, 2),
        ("gpt2", {}, 0),  # dropout
        ("gpt_neo", {}, 0),  # an attention of its own
        ("mistral", {}, 2),
    ],
    ids=["llama", "checkpointing", "lora", "gpt2", "dropout", "gpt_neo", "window"],
)
def test_packed_rows_are_sequences_of_one_call_a_layer(
    folders: dict[str, Path], rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    family: str, changes: dict[str, Any], calls: int,
) -> None:  # fmt: skip
    import varlen_reference

    start = folders.get(family) or windowed(tmp_path / "start")
    settings: dict[str, Any] = {
        "model": str(start), "learning_rate": 1e-3, "batch_size": 4, "micro_batch_size": 4,
        "packing": "bfd", "max_length": 64, **changes,
    }  # fmt: skip
    build_sft(**settings).train(Update(str(rows), 0, str(tmp_path / "masked")))
    made = varlen_reference.on_cpu(monkeypatch)
    build_sft(**settings).train(Update(str(rows), 0, str(tmp_path / "calls")))
    assert len(made) == calls
    assert all(len(one["cu_seq_q"]) - 1 >= 7 for one in made)
    assert {one["window_size"] for one in made} <= {(5, 0) if family == "mistral" else (-1, 0)}
    assert largest_difference(tmp_path / "masked", tmp_path / "calls") < 5e-5


def windowed(folder: Path) -> Path:
    """A policy that sees six tokens."""
    from transformers import AutoModelForCausalLM, MistralConfig

    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=320, hidden_size=64, intermediate_size=96, num_hidden_layers=2, head_dim=32,
        num_attention_heads=2, num_key_value_heads=1, sliding_window=6, bos_token_id=0,
        eos_token_id=1, pad_token_id=2,
    )  # fmt: skip
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
@pytest.mark.parametrize("optim", ["adamw_8bit", "paged_adamw"])
def test_small_optimizers_train_and_resume(
    folders: dict[str, Path], rows: Path, tmp_path: Path, optim: str
) -> None:
    settings: dict[str, Any] = {"model": str(folders["llama"]), "learning_rate": 1e-3}
    build_sft(**settings).train(Update(str(rows), 1, str(tmp_path / "usual")))
    small = build_sft(optim=optim, **settings)
    for seed in (1, 2):
        small.train(Update(str(rows), seed, str(tmp_path / str(seed))))
        small.store(str(tmp_path / str(seed)))
    # most steps are those of AdamW
    usual, found = weights(tmp_path / "usual"), weights(tmp_path / "1")
    apart = torch.cat([(found[key] - usual[key]).abs().flatten() for key in usual])
    assert float(apart.quantile(0.9)) < 2e-4
    resumed = build_sft(optim=optim, checkpoint=str(tmp_path / "1"), **settings)
    resumed.train(Update(str(rows), 2, str(tmp_path / "2b")))
    assert_identical(weights(tmp_path / "2"), weights(tmp_path / "2b"))


@pytest.mark.skipif(find_spec("bitsandbytes") is not None, reason="bitsandbytes is installed")
def test_a_missing_optimizer_package_is_named(folders: dict[str, Path]) -> None:
    with pytest.raises(InputError, match=r"train\.optim: adamw_8bit needs bitsandbytes"):
        build_sft(str(folders["llama"]), optim="adamw_8bit")


# from update to update


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo"])
def test_resumed_update_is_bit_identical(
    folders: dict[str, Path], rows: Path, tmp_path: Path, family: str
) -> None:
    # two updates in one process = one, a new process from its checkpoint, another one; also with
    # dropout (GPT-2 has it), whose masks descend from the update's seed
    settings: dict[str, Any] = {"learning_rate": 1e-3, "batch_size": 4, "micro_batch_size": 2}
    settings |= {"schedule": "linear", "warmup_steps": 1, "epochs": 2}
    whole = build_sft(str(folders[family]), **settings)
    whole.train(Update(str(rows), 1, str(tmp_path / "1")))
    whole.store(str(tmp_path / "1"))
    whole.train(Update(str(rows), 2, str(tmp_path / "2")))
    torch.rand(17)  # another process has used its generator otherwise
    resumed = build_sft(str(folders[family]), checkpoint=str(tmp_path / "1"), **settings)
    resumed.train(Update(str(rows), 2, str(tmp_path / "2b")))
    assert_identical(weights(tmp_path / "2"), weights(tmp_path / "2b"))
    other = build_sft(str(folders[family]), checkpoint=str(tmp_path / "1"), **settings)
    other.train(Update(str(rows), 3, str(tmp_path / "3")))
    assert largest_difference(tmp_path / "2", tmp_path / "3") > 0


@pytest.mark.slow
def test_fresh_optimizer_forgets_and_persistent_remembers(
    folders: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    def second_update(optimizer: str, restarted: bool) -> dict[str, torch.Tensor]:
        out = tmp_path / f"{optimizer}-{restarted}"
        settings: dict[str, Any] = {"learning_rate": 1e-3, "optimizer": optimizer}
        trainer = build_sft(str(folders["llama"]), **settings)
        trainer.train(Update(str(rows), 1, str(out / "1")))
        if optimizer == "persistent":
            trainer.store(str(out / "1"))
        if restarted:
            trainer = build_sft(str(folders["llama"]), checkpoint=str(out / "1"), **settings)
        trainer.train(Update(str(rows), 2, str(out / "2")))
        assert (out / "1/optimizer.pt").exists() == (optimizer == "persistent")
        return weights(out / "2")

    fresh = second_update("fresh", False)
    persistent = second_update("persistent", False)
    assert_identical(fresh, second_update("fresh", True))
    assert any(not torch.equal(fresh[key], persistent[key]) for key in fresh)


def test_missing_optimizer_state_is_refused(
    folders: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    build_sft(str(folders["llama"])).train(Update(str(rows), 1, str(tmp_path / "1")))
    with pytest.raises(InputError, match=r"optimizer\.pt: missing"):
        build_sft(str(folders["llama"]), checkpoint=str(tmp_path / "1"))


def test_an_optimizer_that_finds_no_room_leaves_nothing_half(
    folders: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    trainer, out = build_sft(str(folders["llama"])), tmp_path / "1"
    trainer.train(Update(str(rows), 1, str(out)))
    assert not is_whole(out)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
        with pytest.raises((OSError, RuntimeError)) as caught:
            trainer.store(str(out))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)
    assert "no space left" in str(refusal(caught.value))
    assert not is_whole(out) and sorted(out.glob("*optimizer*")) == [out / "optimizer.json"]
    trainer.store(str(out))
    assert is_whole(out)
    build_sft(str(folders["llama"]), checkpoint=str(out)).train(Update(str(rows), 2))


@pytest.mark.slow
@pytest.mark.parametrize("mixed", [False, True], ids=["float32", "autocast"])
def test_forward_is_not_wrapped_again_each_update(
    folders: dict[str, Path], rows: Path, tmp_path: Path, mixed: bool
) -> None:
    trainer = build_sft(str(folders["llama"]), learning_rate=1e-4)
    trainer._trainer.accelerator.native_amp = mixed  # what bf16 sets on a GPU
    trainer._trainer.accelerator.state._mixed_precision = "bf16" if mixed else "no"
    model = trainer._trainer.model
    before = model.forward
    depths = []
    try:
        for number in range(3):
            trainer.train(Update(str(rows), number, str(tmp_path / f"{number}")))
            depths.append(wrappers(model.forward))
    finally:
        trainer._trainer.accelerator.state._mixed_precision = "no"  # shared by the process
    assert depths == [wrappers(before)] * 3
    assert model.forward.__func__ is before.__func__


def wrappers(function: Any) -> int:
    depth = 0
    while (function := getattr(function, "__wrapped__", None)) is not None:
        depth += 1
    return depth


def test_diverged_training_says_so_and_writes_nothing(
    folders: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    trainer = build_sft(str(folders["llama"]), learning_rate=1e30, batch_size=2, epochs=3)
    with pytest.raises(InputError, match=r"train\.learning_rate: training diverged"):
        trainer.train(Update(str(rows), 0, str(tmp_path / "out")))
    assert not (tmp_path / "out").exists()


# checkpoints


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo"])
def test_checkpoint_round_trip(
    folders: dict[str, Path], rows: Path, tmp_path: Path, family: str
) -> None:
    # the checkpoint is the trainer's policy (tied weights too), with the policy's own settings and
    # tokenizer: the trainer's PAD token and switched-off cache are no part of it
    trainer = build_sft(str(folders[family]), learning_rate=1e-3)
    trainer.train(Update(str(rows), 0, str(tmp_path / "out")))
    ids = next(iter(sft_rows(rows, "all")))["input_ids"]
    assert trainer.log_probs(ids) == pytest.approx(tiny.log_probs(tmp_path / "out", ids), abs=1e-5)
    assert trainer.log_probs(ids) != pytest.approx(tiny.log_probs(folders[family], ids), abs=1e-3)
    modes = {file.stat().st_mode for file in (tmp_path / "out").iterdir()}
    assert len(modes) == 1  # weights are readable to whom the rest is
    for name in ("config.json", "generation_config.json", "tokenizer.json"):
        assert json.loads((tmp_path / "out" / name).read_text()) == json.loads(
            (folders[family] / name).read_text()
        )


def test_a_policy_without_pad_token_stays_without(rows: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    folder = tiny.checkpoint(tmp_path / "start", "llama", pad=None, pad_token_id=None)
    build_sft(str(folder)).train(Update(str(rows), 0, str(tmp_path / "out")))
    assert AutoTokenizer.from_pretrained(tmp_path / "out").pad_token is None
    assert AutoConfig.from_pretrained(tmp_path / "out").pad_token_id is None


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2_plain"])
def test_lora_exports_merged_weights_and_leaves_the_base_alone(
    folders: dict[str, Path], rows: Path, tmp_path: Path, family: str
) -> None:
    trainer = build_sft(str(folders[family]), learning_rate=1e-2, lora=LORA)
    for number in (1, 2):
        trainer.train(Update(str(rows), number, str(tmp_path / f"{number}")))
    ids = next(iter(sft_rows(rows, "all")))["input_ids"]
    from transformers import AutoModelForCausalLM

    model = trainer._trainer.model.eval()
    exported = AutoModelForCausalLM.from_pretrained(tmp_path / "2", dtype=torch.float32).eval()
    with torch.no_grad():
        found = exported(torch.tensor([ids])).logits
        assert torch.allclose(
            found, model(torch.tensor([ids])).logits, atol=1e-5 * found.abs().max()
        )
    start = AutoModelForCausalLM.from_pretrained(folders[family], dtype=torch.float32)
    assert exported.state_dict().keys() == start.state_dict().keys()
    base = model.get_base_model().state_dict()
    frozen = {k.replace(".base_layer.", "."): v for k, v in base.items() if "lora_" not in k}
    assert_identical(frozen, dict(start.state_dict()))
    changed = [
        key
        for key, value in merged_tensors(model)
        if not torch.equal(value, start.state_dict()[key])
    ]
    assert changed
    assert not any("norm" in key or "ln_" in key or "embed" in key for key in changed)


@pytest.mark.slow
def test_lora_resumes_bit_identically_from_its_adapter(
    folders: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    settings: dict[str, Any] = {"learning_rate": 1e-2, "lora": {**LORA, "dropout": 0.1}}
    whole = build_sft(str(folders["llama"]), **settings)
    whole.train(Update(str(rows), 1, str(tmp_path / "1")))
    whole.store(str(tmp_path / "1"))
    whole.train(Update(str(rows), 2, str(tmp_path / "2")))
    resumed = build_sft(str(folders["llama"]), checkpoint=str(tmp_path / "1"), **settings)
    resumed.train(Update(str(rows), 2, str(tmp_path / "2b")))
    assert_identical(weights(tmp_path / "2"), weights(tmp_path / "2b"))
    adapters = [
        load_file(tmp_path / out / "adapter/adapter_model.safetensors") for out in ("2", "2b")
    ]
    assert_identical(*adapters)


# several trainers


@pytest.mark.slow
def test_two_trainers_make_the_update_of_one(
    folders: dict[str, Path], rows: Path, tmp_path: Path
) -> None:
    # the same rows in every optimizer step, an incomplete last batch and a second update included
    settings: dict[str, Any] = {"model": str(folders["llama"]), "learning_rate": 1e-4}
    settings |= {"batch_size": 4, "epochs": 2}
    outs = [str(tmp_path / f"two-{number}") for number in (0, 1)]
    shared = run_ranks(settings, rows, outs)
    alone = build_sft(**settings)
    for seed, out in enumerate(outs):
        metrics = alone.train(Update(str(rows), seed, str(tmp_path / f"one-{seed}")))
        assert shared[0][seed]["train/loss"] == pytest.approx(metrics["train/loss"], rel=1e-5)
        assert shared[1][seed]["train/loss"] == shared[0][seed]["train/loss"]
        assert shared[0][seed]["train/steps"] == metrics["train/steps"] == 4
        assert largest_difference(Path(out), tmp_path / f"one-{seed}") < 1e-6


# what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fsdp_offload": True}, "train.fsdp_offload: is for train.fsdp"),
        ({"fsdp": True}, "train.fsdp: .* one trainer"),
        ({"fsdp": True, "world_size": 2}, "train.fsdp: .* no GPU"),
        ({"packing": "wrapped"}, "train.packing: packing needs train.max_length"),
        ({"batch_size": 4, "micro_batch_size": 3}, "train.batch_size: 4 is not a multiple"),
        ({"batch_size": 1, "world_size": 2}, "train.batch_size: 1 is not a multiple"),
    ],
)
def test_settings_that_cannot_work_are_refused(
    folders: dict[str, Path], settings: dict[str, Any], message: str
) -> None:
    if torch.cuda.is_available():
        pytest.skip("these refusals are for machines without a GPU")
    with pytest.raises(InputError, match=message):
        build_sft(str(folders["llama"]), **settings)
