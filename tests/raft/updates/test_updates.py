"""Every update against a computation written from its formula, and against TRL's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from safetensors.torch import load_file
from sft_rank import build_sft, run_ranks
from torch.nn.functional import logsigmoid
from transformers import AutoModelForCausalLM

from raft.config.train import TrainConfig
from raft.updates.rows import MIXED, of_mean_one, pair_rows, sft_rows, training_order
from raft.updates.trainer import Update, build_trainer
from raft.workers.executors import Resources
from raft.workers.inline_executor import InlineExecutor
from raft.workers.trainer import TrainerWorkers
from rollout.types import InputError

Row = dict[str, Any]
RATIO = {"kind": "raft_plus_plus", "clip": 0.1, "clip_high": 0.15}
ADVANTAGES = [1.5, -0.5, -1.0, 2.0, -2.0, 0.0, 0.75, 0.25]


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny.checkpoint(tmp_path_factory.mktemp("start"), "llama")


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory, start: Path) -> Path:
    """A later policy than the start: the checkpoint that an update goes on from."""
    folder = tmp_path_factory.mktemp("policy")
    model = AutoModelForCausalLM.from_pretrained(start, dtype=torch.float32)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter) * parameter.std())
    model.save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def text(number: int) -> tuple[list[int], list[int]]:
    made = tiny.tokenizer()
    prompt = made(f"Once upon {'a time ' * (number % 3)}")["input_ids"]
    words = [" the cat sat", " a dog ran", " the sun was warm"][number % 3]
    response = made(words * (1 + number % 4), add_special_tokens=False)["input_ids"]
    return prompt, response + [tiny.EOS_ID] * (number % 2)


def write(path: Path, rows: list[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    """Eight responses with advantages (one is 0), each preferred to another; two rows to mix in."""
    found: list[Row] = []
    for number, weight in enumerate(ADVANTAGES):
        prompt, response = text(number)
        worse = {"response": "", "score": 0.0, "sample": 1, "token_ids": text(number + 1)[1]}
        row = {"id": f"p{number}", "sample": 0, "response": "", "prompt_token_ids": prompt}
        found.append({**row, "token_ids": response, "weight": weight, "rejected": worse})
    (tmp_path / "rows").mkdir()
    mixed = [{**row, "token_ids": row["token_ids"][::-1]} for row in found[:2]]
    write(
        tmp_path / "rows" / MIXED,
        [{k: v for k, v in row.items() if k != "weight"} for row in mixed],
    )
    return write(tmp_path / "rows/selected.jsonl", found)


def without_weights(path: Path) -> Path:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    return write(path, [{k: v for k, v in row.items() if k != "weight"} for row in rows])


# by hand: one row at a time, the formula written out, AdamW and clipping as the trainer has them


def log_probs(model: Any, row: Any) -> torch.Tensor:
    """log p of the trained tokens of a row."""
    logits = model(torch.tensor([row["input_ids"]])).logits[0, :-1]
    labels = torch.tensor(row["labels"][1:])
    picked = logits.log_softmax(-1).gather(-1, labels.clamp(min=0)[:, None])[:, 0]
    return picked[labels >= 0]


def loaded(folder: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


def by_hand(
    folder: Path,
    rows: list[Any],
    loss: Callable[[Any, int], torch.Tensor],
    count: Callable[[Any], int],
    *,
    epochs: int = 3,
    rate: float = 3e-3,
) -> dict[str, torch.Tensor]:
    """The weights after AdamW on loss(model, row number), over the count of each step."""
    model = loaded(folder).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0)
    order = training_order(len(rows), 4, epochs, seed=0)
    for at in range(0, len(order), 4):
        batch = [n for n in order[at : at + 4] if n < len(rows)]
        total = sum(count(rows[n]) for n in batch)
        for n in batch:
            (loss(model, n) / total).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    return dict(model.state_dict())


def trained_tokens(row: Any) -> int:
    return sum(label >= 0 for label in row["labels"][1:])


def trained(
    start: Path, policy: Path | None, rows: Path, out: Path, **settings: Any
) -> tuple[dict[str, torch.Tensor], dict[str, float]]:
    settings = {
        "learning_rate": 3e-3,
        "batch_size": 4,
        "epochs": 3,
        "optimizer": "fresh",
        **settings,
    }
    checkpoint = {"checkpoint": str(policy)} if policy else {}
    trainer = build_sft(str(start), **checkpoint, **settings)
    metrics = trainer.train(Update(str(rows), 0, str(out)))
    return load_file(out / "model.safetensors"), metrics


def assert_same_update(
    found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], before: Path
) -> None:
    # Adam turns a gradient that is all rounding into a whole step: all weights but a few
    off = torch.cat([(found[key] - expected[key]).abs().flatten() for key in found])
    moved = torch.cat(
        [(found[key] - value).abs().flatten() for key, value in loaded(before).state_dict().items()]
    )
    assert float(off.quantile(0.995)) < 2e-5
    assert float(moved.quantile(0.5)) > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "kl", "micro", "mix"),
    [
        ({"kind": "weighted"}, 0.0, None, False),
        (RATIO, 0.0, None, False),
        ({"kind": "raft_plus_plus", "clip": None}, 0.0, 1, False),
        ({"kind": "reinforce", "clip": 0.1}, 0.0, None, False),
        ({"kind": "reinforce", "clip": 0.1}, 0.3, 2, True),
        ({"kind": "sft"}, 0.3, 2, True),
    ],
    ids=lambda value: json.dumps(value),
)
def test_update_is_the_one_of_its_formula(
    start: Path,
    policy: Path,
    rows: Path,
    tmp_path: Path,
    update: Row,
    kl: float,
    micro: int | None,
    mix: bool,
) -> None:
    kind = update["kind"]
    if kind == "weighted":  # by scores these are never negative
        write(rows, [
            {**json.loads(line), "weight": abs(weight)}
            for line, weight in zip(rows.read_text().splitlines(), ADVANTAGES, strict=True)
        ])  # fmt: skip
    elif kind != "reinforce":
        without_weights(rows)
    made: list[Any] = list(sft_rows(rows, "response"))
    assert len(made) == (7 if kind in ("weighted", "reinforce") else 8)  # of weight 0 none is read
    if kind == "weighted":
        made = of_mean_one(made)
        assert sum(row["weight"] for row in made) == pytest.approx(7)
    drawn_rows = len(made)
    if mix:
        made += list(sft_rows(rows.with_name(MIXED), "response"))
    with torch.no_grad():
        drawn = [log_probs(loaded(policy), row) for row in made]
        first = [log_probs(loaded(start), row) for row in made]
    low = 1 - (update.get("clip") or 1.0)
    clip = update.get("clip")
    high = 1 + update.get("clip_high", clip) if clip else 1e9

    def loss(model: Any, n: int) -> torch.Tensor:
        own, weight = log_probs(model, made[n]), made[n].get("weight", 1.0)
        if n >= drawn_rows:
            return -own.sum()
        total = -weight * own
        if "clip" in update:
            ratio = (own - drawn[n]).exp()
            clipped = torch.clamp(ratio, low, high)
            total = -torch.where(ratio * weight < clipped * weight, ratio, clipped) * weight
        gap = first[n] - own
        return (total + kl * (gap.exp() - gap - 1)).sum()

    settings: Row = {"update": update, "kl": kl, "micro_batch_size": micro}
    if mix:
        settings["mix"] = {"path": "unused", "share": 0.2}
    found, metrics = trained(start, policy, rows, tmp_path / "out", **settings)
    assert_same_update(found, by_hand(policy, made, loss, trained_tokens), policy)
    assert metrics["train/grad_norm"] > 0 and metrics["train/entropy"] > 0
    assert ("train/kl_start" in metrics) == (kl > 0)
    if "clip" in update:
        assert metrics["train/ratio_mean"] != 1 and metrics["train/kl_drawn"] > 1e-3
        # the update leaves the clip's bounds, or the test would not see it
        assert (metrics["train/clip_share"] > 0.02) == (update["clip"] is not None)
    assert metrics.get("train/mixed", 0) == 2 * mix


@pytest.mark.slow
def test_one_pass_at_ratio_one_is_sft(start: Path, rows: Path, tmp_path: Path) -> None:
    without_weights(rows)
    settings: Row = {"epochs": 1, "batch_size": 8}
    sft, _ = trained(start, None, rows, tmp_path / "sft", **settings)
    plus, metrics = trained(
        start, None, rows, tmp_path / "plus", update="raft_plus_plus", **settings
    )
    assert_same_update(plus, sft, start)
    assert metrics["train/ratio_mean"] == pytest.approx(1, abs=1e-5)
    assert metrics["train/clip_share"] == 0
    assert metrics["train/kl_drawn"] == pytest.approx(0, abs=1e-6)
    # the mean of −1 · ratio
    assert metrics["train/loss"] == pytest.approx(-1, abs=1e-5)


@pytest.mark.slow
def test_weights_of_one_response_a_prompt_are_sft_on_it(
    start: Path, rows: Path, tmp_path: Path
) -> None:
    stored = [json.loads(line) for line in rows.read_text().splitlines()]
    write(rows, [{**row, "weight": float(n % 2)} for n, row in enumerate(stored)])
    weighted, _ = trained(start, None, rows, tmp_path / "weighted", update="weighted")
    write(rows, stored[1::2])
    sft, _ = trained(start, None, without_weights(rows), tmp_path / "sft")
    assert_same_update(weighted, sft, start)


# pairs


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["previous", "start"])
def test_dpo_is_the_update_of_its_formula(
    start: Path, policy: Path, rows: Path, tmp_path: Path, reference: str
) -> None:
    pairs = [(side(pair, "chosen_ids"), side(pair, "rejected_ids")) for pair in pair_rows(rows)]
    pairs = pairs[:7]  # so that the last batch is filled up
    write(rows, [json.loads(line) for line in rows.read_text().splitlines()[:7]])
    model = loaded(policy if reference == "previous" else start)
    with torch.no_grad():
        first = [[log_probs(model, row).sum() for row in pair] for pair in pairs]

    def loss(model: Any, n: int) -> torch.Tensor:
        better, worse = (log_probs(model, row).sum() for row in pairs[n])
        return -logsigmoid(0.3 * ((better - first[n][0]) - (worse - first[n][1])))

    update = {"kind": "dpo", "beta": 0.3, "reference": reference}
    for micro in (None, 1):
        found, metrics = trained(
            start, policy, rows, tmp_path / f"{micro}", update=update, micro_batch_size=micro
        )
        assert_same_update(found, by_hand(policy, pairs, loss, lambda _: 1), policy)
        assert metrics["train/pairs"] == 7 and metrics["train/grad_norm"] > 0
        assert metrics["train/pair_margin"] > 0 and 0.5 < metrics["train/pair_accuracy"] <= 1


def side(pair: Any, name: str) -> Row:
    prompt = pair["prompt_ids"]
    return {"input_ids": prompt + pair[name], "labels": [-100] * len(prompt) + pair[name]}


@pytest.mark.slow
def test_dpo_loss_is_trls_on_the_same_rows(start: Path, policy: Path, tmp_path: Path) -> None:
    # TRL reads text, appends EOS and keeps a reference model; ours gets the ids that it makes of it
    from datasets import Dataset
    from trl.trainer.dpo_config import DPOConfig
    from trl.trainer.dpo_trainer import DPOTrainer

    texts = [
        {"prompt": "Once upon a time", "chosen": " the cat sat on the mat", "rejected": " no"},
        {"prompt": "One day", "chosen": " a bird flew", "rejected": " the dog ran to the park"},
    ]
    theirs = DPOTrainer(
        model=loaded(policy),
        ref_model=loaded(start),
        args=DPOConfig(output_dir=str(tmp_path), beta=0.3, use_cpu=True, bf16=False, report_to=[]),
        train_dataset=Dataset.from_list(texts),
        processing_class=tiny.tokenizer(),
    )
    ids: list[Any] = list(theirs.train_dataset)
    model: Any = theirs.model
    expected = float(theirs.compute_loss(model, theirs.data_collator(ids)).detach())
    lines = [
        {
            "id": f"p{n}", "sample": 0, "response": "", "prompt_token_ids": row["prompt_ids"],
            "token_ids": row["chosen_ids"],
            "rejected": {"response": "", "score": 0, "token_ids": row["rejected_ids"]},
        }
        for n, row in enumerate(ids)
    ]  # fmt: skip
    file = write(tmp_path / "selected.jsonl", lines)
    update = {"kind": "dpo", "beta": 0.3, "reference": "start"}
    _, metrics = trained(
        start, policy, file, tmp_path / "out", update=update, learning_rate=1e-12, epochs=1
    )
    assert metrics["train/loss"] == pytest.approx(expected, rel=1e-5)
    assert abs(expected - 0.6931) > 1e-3


def test_pairs_need_the_tokens_of_both_sides(start: Path, rows: Path, tmp_path: Path) -> None:
    stored = [json.loads(line) for line in rows.read_text().splitlines()]
    write(rows, [{**row, "rejected": {"response": "x", "score": 0.0}} for row in stored])  # of old
    with pytest.raises(InputError, match="p0 has no rejected response"):
        trained(start, None, rows, tmp_path / "out", update="dpo")


# from update to update


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    "lora", [None, {"r": 4, "alpha": 8, "target_modules": "all-linear"}], ids=["whole", "lora"]
)
@pytest.mark.parametrize("update", ["sft", "raft_plus_plus"])
def test_an_update_from_the_start_forgets_all_before(
    start: Path, rows: Path, tmp_path: Path, lora: Any, update: str
) -> None:
    # ReST-EM: what was trained before decides what is drawn, and here the rows are the same
    without_weights(rows)
    settings: Row = {"learning_rate": 1e-2, "lora": lora, "start_from": "start", "epochs": 1}
    settings |= {"batch_size": 8, "update": update}
    trainer = build_sft(str(start), **settings)
    for number in (1, 2):
        trainer.train(Update(str(rows), 5, str(tmp_path / f"{number}")))
        assert not (tmp_path / f"{number}/optimizer.pt").exists()
    resumed = build_sft(str(start), checkpoint=str(tmp_path / "1"), **settings)
    metrics = resumed.train(Update(str(rows), 5, str(tmp_path / "3")))
    first, second, third = (load_file(tmp_path / f"{n}/model.safetensors") for n in (1, 2, 3))
    if update == "sft":
        assert all(torch.equal(first[key], second[key]) for key in first)
    else:  # the ratio is to the policy that drew, from which the start lies away
        assert metrics["train/kl_drawn"] > 1e-4
        assert any(not torch.equal(first[key], second[key]) for key in first)
    assert all(torch.equal(second[key], third[key]) for key in first)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    "lora", [None, {"r": 4, "alpha": 8, "target_modules": "all-linear"}], ids=["whole", "lora"]
)
def test_the_ratio_is_to_the_policy_that_drew(
    start: Path, rows: Path, tmp_path: Path, lora: Any
) -> None:
    # which may be the one before the trained one, or the starting one
    settings: Row = {"learning_rate": 3e-2, "batch_size": 100, "lora": lora, "update": "reinforce"}
    trainer = build_sft(str(start), **settings)
    trainer.train(Update(str(rows), 1, str(tmp_path / "1")))
    trainer.train(Update(str(rows), 2, str(tmp_path / "2")))
    trainer.store(str(tmp_path / "2"))
    policies = {name: log_probs_by_transformers(folder, rows) for name, folder in (
        (None, tmp_path / "2"), ("1", tmp_path / "1"), ("start", start),
    )}  # fmt: skip
    for name, drew in (("1", tmp_path / "1"), ("start", start), (None, None)):
        resumed = build_sft(str(start), checkpoint=str(tmp_path / "2"), **settings)
        metrics = resumed.train(Update(str(rows), 3, drawn_by=drew and str(drew)))
        expected = (policies[None] - policies[name]).exp().mean().item()
        assert metrics["train/ratio_mean"] == pytest.approx(expected, rel=1e-4)
        assert (abs(expected - 1) > 1e-3) is (name is not None)


def log_probs_by_transformers(folder: Path, rows: Path) -> torch.Tensor:
    """Of every trained token of all rows, end to end."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    found = []
    for row in sft_rows(rows, "response"):
        ids = torch.tensor([row["input_ids"]])
        with torch.no_grad():
            said = model(ids).logits[0, :-1].log_softmax(-1)
        labels = torch.tensor(row["labels"][1:])
        found.append(said.gather(-1, ids[0, 1:, None])[:, 0][labels >= 0])
    return torch.cat(found)


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    "lora", [None, {"r": 4, "alpha": 8, "target_modules": "all-linear"}], ids=["whole", "lora"]
)
def test_updates_since_the_last_checkpoint_are_made_again_bit_for_bit(
    start: Path, rows: Path, tmp_path: Path, lora: Any
) -> None:
    # weights alone are stored after updates 2 and 3; Adam's moments come of making them again
    settings = TrainConfig.model_validate(
        {"learning_rate": 1e-2, "batch_size": 4, "lora": lora, "update": "reinforce"}
    )
    build = partial(build_trainer, str(start), settings)

    def workers(*begun: Any) -> TrainerWorkers:
        checkpoint, since = begun or (None, [])
        return TrainerWorkers(InlineExecutor(), [Resources()], build, checkpoint, since=since)

    def make(trainer: TrainerWorkers, number: int, out: str, whole: bool) -> None:
        path = str(tmp_path / out)
        trainer.train(Update(str(rows), number, path, whole=whole))
        if whole:
            trainer.store(path)
        assert (tmp_path / out / "optimizer.pt").exists() is whole

    straight = workers()
    for number, whole in ((1, True), (2, False), (3, False), (4, True)):
        make(straight, number, f"{number}", whole)
    torch.rand(17)
    resumed = workers(str(tmp_path / "1"), [Update(str(rows), 2), Update(str(rows), 3)])
    make(resumed, 4, "4b", True)
    adapter = ["adapter/adapter_model.safetensors"] if lora else []
    for name in ("model.safetensors", "optimizer.pt", *adapter):
        first, second = ((tmp_path / out / name).read_bytes() for out in ("4", "4b"))
        assert first == second
    late = workers(str(tmp_path / "1"), [])
    make(late, 4, "4c", True)
    first, third = ((tmp_path / out / "model.safetensors").read_bytes() for out in ("4", "4c"))
    assert first != third


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    "lora", [None, {"r": 4, "alpha": 8, "target_modules": "all-linear"}], ids=["whole", "lora"]
)
@pytest.mark.parametrize("update", ["weighted", "raft_plus_plus", "reinforce", "dpo"])
def test_resumed_update_is_bit_identical(
    start: Path, rows: Path, tmp_path: Path, update: str, lora: Any
) -> None:
    settings: Row = {"learning_rate": 1e-3, "batch_size": 4, "epochs": 2, "lora": lora}
    settings |= {"update": update, "kl": 0.0 if update == "dpo" else 0.1}
    whole = build_sft(str(start), **settings)
    whole.train(Update(str(rows), 1, str(tmp_path / "1")))
    whole.store(str(tmp_path / "1"))
    metrics = whole.train(Update(str(rows), 2, str(tmp_path / "2")))
    torch.rand(17)  # another process has used its generator otherwise
    resumed = build_sft(str(start), checkpoint=str(tmp_path / "1"), **settings)
    again = resumed.train(Update(str(rows), 2, str(tmp_path / "2b")))
    first, second = (load_file(tmp_path / out / "model.safetensors") for out in ("2", "2b"))
    assert all(torch.equal(first[key], second[key]) for key in first)
    timed = ("train/seconds", "train/save_seconds")
    assert {k: v for k, v in metrics.items() if k not in timed} == {
        k: v for k, v in again.items() if k not in timed
    }
    if update != "dpo":
        assert metrics["train/kl_start"] > 1e-6  # one update away from the start, adapter or not
    adapters = [path.name for path in (tmp_path / "2").glob("adapter/*")]
    assert adapters == [] if lora is None else "ref" not in adapters


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("update", "beside"),
    [("reinforce", {"kl": 0.1, "mix": {"path": "unused"}}), ("dpo", {})],
)
def test_two_trainers_make_the_update_of_one(
    start: Path, rows: Path, tmp_path: Path, update: str, beside: Row
) -> None:
    # as with SFT; the ranks share the passes before the update, too
    settings: Row = {"model": str(start), "learning_rate": 1e-4, "batch_size": 4, "epochs": 2}
    settings |= {"update": update, **beside}
    outs = [str(tmp_path / f"two-{number}") for number in (0, 1)]
    shared = run_ranks(settings, rows, outs)
    alone = build_sft(**settings)
    for seed, out in enumerate(outs):
        metrics = alone.train(Update(str(rows), seed, str(tmp_path / f"one-{seed}")))
        # at first all margins are 0, and which of them are above it is rounding
        unlike = ("train/seconds", "train/save_seconds", "train/pair_accuracy")
        for key in metrics.keys() - unlike:
            expected = pytest.approx(metrics[key], rel=1e-4, abs=1e-6)
            assert shared[0][seed][key] == shared[1][seed][key] == expected, key
        first, second = (
            load_file(Path(f) / "model.safetensors") for f in (out, tmp_path / f"one-{seed}")
        )
        # Adam makes a step of 1e-4 of a gradient that is rounding, and that is the processor's
        assert max(float((first[key] - second[key]).abs().max()) for key in first) < 5e-6


# what is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"update": "dpo", "kl": 0.1}, "train.kl: does not go with train.update dpo"),
        ({"update": "dpo", "mix": {"path": "x"}}, "train.mix: does not go with"),
        ({"update": "weighted", "packing": "wrapped", "max_length": 8}, "train.packing: does not"),
        ({"kl": 0.1, "packing": "wrapped", "max_length": 8}, "train.packing: .* train.kl"),
        ({"update": "reinforce", "loss_on": "all"}, "train.loss_on: does not go with"),
        ({"update": "dpo", "lora": {"dropout": 0.1}}, "train.lora.dropout: does not go with"),
    ],
)  # fmt: skip
def test_what_does_not_go_with_an_update_is_refused(settings: Row, message: str) -> None:
    with pytest.raises(InputError, match=message):
        TrainConfig(**settings).check(on_gpu=False, world_size=1)
