"""The two stages of the HH recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import tiny_training as tiny
import torch
from wording import words

from rewards.training.bradley_terry import (
    chunks,
    train_hh,
    train_sft,
)
from rewards.training.model import load_trainable
from rewards.training.settings import HH_READING, HH_SFT, HH_TRAINING, TrainingSettings
from rollout.types import InputError

PAIRS = tiny.made_pairs(40)
TRAIN, HELD_OUT = PAIRS[:30], PAIRS[30:]
QUICK = TrainingSettings(learning_rate=3e-3, epochs=1, batch_size=4, log_steps=1)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny.tokenizer(tiny.texts_of(PAIRS), 400, chat=False)
    return tiny.language_model(tmp_path_factory.mktemp("base"), made)


def test_the_defaults_are_the_cards() -> None:
    assert (HH_SFT.learning_rate, HH_SFT.epochs, HH_SFT.schedule) == (2e-5, 2, "linear")
    assert (HH_TRAINING.learning_rate, HH_TRAINING.epochs) == (5e-6, 1)
    assert (HH_TRAINING.schedule, HH_TRAINING.lora) == ("linear", None)
    assert (HH_READING.format, HH_READING.bos) == ("hh", "single")
    assert (HH_READING.max_length, HH_READING.over_long) == (512, "drop")


def test_chunks_are_texts_end_to_end() -> None:
    rows = [[1, 2, 3], [4, 5], [6, 7, 8, 9, 10, 11]]
    found = [one.rows[0].tolist() for one in chunks(rows, 4)]
    assert found == [[1, 2, 3, 4], [5, 6, 7, 8]], "the remainder is left out"
    assert [one.rows[0].tolist() for one in chunks(rows[:1], 4)] == [[1, 2, 3]]


@pytest.mark.slow
def test_the_first_stage_learns_the_chosen_texts_in_hhs_words(base: Path, tmp_path: Path) -> None:
    """Its loss is the mean over all tokens of the chunks, as transformers computes it."""
    rows = []
    train_sft(
        base, TRAIN, tmp_path, reading=HH_READING, training=QUICK, chunk=64,
        on_metrics=lambda step, values: rows.append((step, values)),
    )  # fmt: skip
    model, tokenizer = load_trainable(base, "causal", QUICK)
    texts = [f"###Human: {pair.prompt[0]['content']}###Assistant: {pair.chosen}" for pair in TRAIN]
    line = [token for text in texts for token in tokenizer(text)["input_ids"]]
    assert line[0] == 0 and line.count(0) == len(TRAIN), "one BOS each"
    pieces = [line[start : start + 64] for start in range(0, len(line) - 63, 64)]
    order = np.random.default_rng([0, 0]).permutation(len(pieces))[:4]
    ids = torch.tensor([pieces[index] for index in order])
    expected = model(input_ids=ids, labels=ids).loss.item()
    assert rows[0][1]["train/loss"] == pytest.approx(expected, rel=1e-4)


@pytest.mark.slow
def test_both_stages_one_after_the_other(base: Path, tmp_path: Path) -> None:
    from transformers import AutoConfig

    rows = []
    metrics = train_hh(
        base, TRAIN, HELD_OUT, tmp_path, training=QUICK, sft=QUICK, chunk=64,
        sft_pairs=tiny.made_pairs(5, seed=9),
        on_metrics=lambda step, values: rows.append(set(values)),
    )  # fmt: skip
    assert AutoConfig.from_pretrained(tmp_path / "sft" / "model").architectures == [
        "LlamaForCausalLM"
    ]
    assert AutoConfig.from_pretrained(tmp_path / "model").architectures == [
        "LlamaForSequenceClassification"
    ]
    found = cast("dict[str, Any]", metrics)
    assert found["sft/steps"] > 0 and found["train/steps"] == 8
    assert found["reading"]["format"] == "hh"
    assert any("sft/loss" in names for names in rows)
    assert any("eval/accuracy" in names for names in rows)


@pytest.mark.slow
def test_the_first_stage_is_made_once(base: Path, tmp_path: Path) -> None:
    first = train_hh(base, TRAIN, HELD_OUT, tmp_path, training=QUICK, sft=QUICK, chunk=64)
    file = tmp_path / "sft" / "model" / "model.safetensors"
    before = file.stat().st_mtime_ns
    again = train_hh(base, TRAIN, HELD_OUT, tmp_path, training=QUICK, sft=QUICK, chunk=64)
    assert file.stat().st_mtime_ns == before
    assert again == first


@pytest.mark.slow
def test_long_pairs_are_left_out_and_counted(base: Path, tmp_path: Path) -> None:
    long = tiny.pair("long", "hello", "very " * 300 + "good", "bad")
    metrics = train_hh(base, [*TRAIN, long], HELD_OUT, tmp_path, training=QUICK, sft=None)
    found = cast("dict[str, Any]", metrics)
    assert found["pairs/dropped"]["train"] == {"longer than 512 tokens": 1}
    assert found["pairs/train"] == len(TRAIN)
    with pytest.raises(InputError, match=words("1: 1 longer than 512 tokens")):
        train_hh(base, [long], HELD_OUT, tmp_path / "2", training=QUICK, sft=None)
