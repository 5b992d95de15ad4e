"""What is exported: a folder that finds its own settings and scores as it did in training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import tiny_training as tiny
from tiny_rewards import tensors_of

from rewards import load_reward
from rewards.checkpoints.record import read_record, write_record
from rewards.checkpoints.record import with_record as with_settings
from rewards.checkpoints.settings import ModelSettings
from rewards.training.bradley_terry import train_bradley_terry
from rewards.training.losses import PairObjective
from rewards.training.settings import LoraSettings, ReadingSettings, TrainingSettings
from rollout.types import InputError, Message

PAIRS = tiny.made_pairs(20)
TRAIN, HELD_OUT = PAIRS[:12], PAIRS[12:]
QUICK = TrainingSettings(learning_rate=3e-3, epochs=2, batch_size=6)
SIDES = [pair.conversation(side) for pair in HELD_OUT for side in ("chosen", "rejected")]


def base(folder: Path, **tokenizer: Any) -> Path:
    made = tiny.tokenizer(tiny.texts_of(PAIRS), 400, **tokenizer)
    return tiny.language_model(folder, made)


class Watch:
    """Keeps the last scores that training computed for the held-out pairs."""

    values: Any

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        judge = PairObjective.judge

        def watched(own: Any, values: Any) -> dict[str, float]:
            self.values = values
            return judge(own, values)

        monkeypatch.setattr(PairObjective, "judge", watched)

    @property
    def scores(self) -> list[float]:
        sides = zip(self.values["chosen"].tolist(), self.values["rejected"].tolist(), strict=True)
        return [score for both in sides for score in both]


@pytest.fixture()
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def with_record(folder: Path) -> Any:
    """As `load_reward` does once it looks for the record itself."""
    return load_reward(folder, **read_record(folder))


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, LoraSettings(r=4), LoraSettings(r=4, dropout=0.1)])
def test_the_folder_scores_as_the_training_did(
    tmp_path: Path, watch: Watch, lora: LoraSettings | None
) -> None:
    settings = TrainingSettings(
        learning_rate=3e-3, epochs=2, batch_size=6, lora=lora, dropout=bool(lora and lora.dropout)
    )
    train_bradley_terry(base(tmp_path / "base"), TRAIN, HELD_OUT, tmp_path, training=settings)
    # chat template, BOS and length are found in transformers' own files
    reward = load_reward(tmp_path / "model")
    assert reward.score(SIDES).tolist() == pytest.approx(watch.scores, abs=1e-5)
    assert max(watch.scores) - min(watch.scores) > 0.1
    assert with_record(tmp_path / "model").describe() == reward.describe()


@pytest.mark.slow
def test_it_is_a_plain_classifier_with_one_pad(tmp_path: Path) -> None:
    from transformers import AutoConfig, AutoTokenizer

    train_bradley_terry(base(tmp_path / "base"), TRAIN, HELD_OUT, tmp_path, training=QUICK)
    folder = tmp_path / "model"
    config, tokenizer = AutoConfig.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert config.architectures == ["LlamaForSequenceClassification"]
    assert config.num_labels == 1
    assert config.pad_token_id == tokenizer.pad_token_id != tokenizer.eos_token_id
    files = {file.name for file in folder.iterdir()}
    assert {"model.safetensors", "reward.json", "tokenizer.json"} <= files
    assert not any(name.endswith((".bin", ".pt", ".py")) for name in files)
    assert "raft_packed" not in (folder / "config.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("pad", [None, tiny.EOS])
def test_a_pad_of_its_own_is_added_where_eos_would_pad(
    tmp_path: Path, watch: Watch, pad: str | None
) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    made = tiny.tokenizer(tiny.texts_of(PAIRS), 400, pad=None)
    made.pad_token = pad
    start = tiny.language_model(tmp_path / "base", made)
    train_bradley_terry(start, TRAIN, HELD_OUT, tmp_path, training=QUICK)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    model: Any = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert tokenizer.pad_token == "[PAD]"
    assert model.config.pad_token_id == tokenizer.pad_token_id == len(made)
    assert model.get_input_embeddings().num_embeddings == len(made) + 1
    # a padded batch through transformers' own pooling, which looks for the PAD
    rows = [tokenizer.apply_chat_template(side)["input_ids"] for side in SIDES]
    batch = tokenizer.pad({"input_ids": rows}, return_tensors="pt", padding_side="right")
    found = model(**batch).logits[:, 0].tolist()
    assert found == pytest.approx(watch.scores, abs=1e-5)
    assert load_reward(tmp_path / "model").score(SIDES).tolist() == pytest.approx(found, abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("reading", "bos"),
    [
        (ReadingSettings(format="hh"), "single"),
        (ReadingSettings(format="hh", separator=" \n"), "single"),
        (ReadingSettings(format="hh", bos="none"), "none"),
        (ReadingSettings(format="plain", bos="double"), "double"),
        (ReadingSettings(format="chat", bos="double"), "double"),
        (ReadingSettings(max_length=48), "single"),
        (ReadingSettings(max_length=90, truncation_side="right"), "single"),
    ],
)
def test_every_way_of_reading_is_recorded(
    tmp_path: Path, watch: Watch, reading: ReadingSettings, bos: str
) -> None:
    chat = reading.format in (None, "chat")
    start = base(tmp_path / "base", chat=chat)
    train_bradley_terry(start, TRAIN, HELD_OUT, tmp_path, reading=reading, training=QUICK)
    reward = with_record(tmp_path / "model")
    assert reward.describe()["bos"] == bos
    assert reward.score(SIDES).tolist() == pytest.approx(watch.scores, abs=1e-5)
    assert json.loads((tmp_path / "model" / "reward.json").read_text())["recipe"] == "bradley_terry"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("format", "bos", "eos"),
    [
        ("hh", "single", "none"), ("hh", "none", "single"), ("plain", "double", "single"),
        ("plain", "none", None), ("ultrarm", "single", "none"), ("beaver", "single", "single"),
    ],
)  # fmt: skip
def test_the_chat_template_of_other_formats_writes_the_same_ids(
    tmp_path: Path, format: Any, bos: Any, eos: Any
) -> None:
    # for those who render with the tokenizer alone
    from transformers import AutoTokenizer

    reading = ReadingSettings(format=format, bos=bos, eos=eos, separator="\n'")
    start = base(tmp_path / "base", chat=False)
    train_bradley_terry(start, TRAIN, HELD_OUT, tmp_path, reading=reading, training=QUICK)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    encoder = with_record(tmp_path / "model").encoder
    assert encoder.eos == (eos or "single"), "plain text is closed unless told otherwise"
    turns = ["a", "b", "c'", "d"]
    roles = ["user", "assistant"] * 2
    talk = [Message(role=r, content=t) for r, t in zip(roles, turns, strict=True)]
    assert (format == "beaver") == ("BEGINNING" in tokenizer.chat_template)
    assert encoder.encode([talk], ["x"]) == [tokenizer.apply_chat_template(talk)["input_ids"]]


@pytest.mark.slow
def test_bfloat16_weights_keep_a_float32_head(tmp_path: Path, watch: Watch) -> None:
    settings = TrainingSettings(learning_rate=3e-3, epochs=2, batch_size=6, dtype="bfloat16")
    train_bradley_terry(base(tmp_path / "base"), TRAIN, HELD_OUT, tmp_path, training=settings)
    tensors = tensors_of(tmp_path / "model")
    assert str(tensors["score.weight"].dtype) == "torch.float32"
    assert str(tensors["model.norm.weight"].dtype) == "torch.bfloat16"
    reward = load_reward(tmp_path / "model")
    # the states are rounded in training, and are not here
    assert reward.score(SIDES).tolist() == pytest.approx(watch.scores, abs=0.3)


@pytest.mark.slow
def test_a_classifier_can_be_trained_further(tmp_path: Path, watch: Watch) -> None:
    train_bradley_terry(base(tmp_path / "base"), TRAIN, HELD_OUT, tmp_path / "1", training=QUICK)
    before, model = watch.scores, tmp_path / "1" / "model"
    idle = TrainingSettings(learning_rate=1e-12, batch_size=12)
    train_bradley_terry(model, TRAIN, HELD_OUT, tmp_path / "2", training=idle)
    assert watch.scores == pytest.approx(before, abs=1e-5), "head and states are those it had"


def test_a_record_fills_what_is_left_open(tmp_path: Path) -> None:
    reading = {
        "format": "hh", "bos": "double", "max_length": 99, "truncation_side": "right",
        "separator": " ",
    }  # fmt: skip
    write_record(tmp_path, reading, recipe="made up")
    filled = with_settings(tmp_path, ModelSettings())
    assert {key: getattr(filled, key) for key in reading} == reading
    given = ModelSettings(format="plain", bos="none", eos="single", max_length=5, separator="\n")
    kept = with_settings(tmp_path, given, side="left", separator="\n")
    assert kept == given
    assert with_settings(tmp_path / "nowhere", given) == given


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    (tmp_path / "reward.json").write_text("[]")
    with pytest.raises(InputError, match=r"reward\.json: not readable"):
        read_record(tmp_path)
    assert read_record(tmp_path / "elsewhere") == {}
