"""The end token: one where a model was trained with one, and never by accident."""

from __future__ import annotations

import json
import logging
import random
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tiny_rewards as tiny

from raft.cli.main import main
from rewards import load_reward
from rewards.checkpoints.record import write_record
from rewards.encoding.encoder import Encoder
from rewards.encoding.formats import Rendered
from rewards.remote.texts import Texts
from rewards.training.examples import reading_encoder
from rewards.training.settings import ReadingSettings
from rollout.types import InputError

if TYPE_CHECKING:
    from rewards.types import Eos, Format

TALK = tiny.chat("why?", "because")
# closes turns with EOS and a line break, as ChatML does; with nothing; with another token
CHATML = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] + '</s>\n' }}{% endfor %}"
OPEN = "{% for m in messages %}{{ '[' + m['role'] + ']' + m['content'] }}{% endfor %}"


def ids_of(text: str, *ends: int) -> list[int]:
    return [tiny.BOS_ID, *tiny.tokenizer()(text, add_special_tokens=False)["input_ids"], *ends]


def encoder(template: str | None = None, format: Format = "chat", **more) -> Encoder:
    made = tiny.tokenizer(chat_template=template)
    return Encoder(made, format=format, bos="single", vocabulary=259, **more)


@pytest.mark.parametrize(
    ("template", "format", "eos", "text", "ends"),
    [
        (None, "plain", "none", "why?because", []),
        (None, "plain", "single", "why?because", [tiny.EOS_ID]),
        (CHATML, "chat", "none", "[user]why?</s>\n[assistant]because</s>\n", []),
        (CHATML, "chat", "single", "[user]why?</s>\n[assistant]because", [tiny.EOS_ID]),
        (OPEN, "chat", "single", "[user]why?[assistant]because", [tiny.EOS_ID]),
        (OPEN + "</s></s>", "chat", "single", "[user]why?[assistant]because", [tiny.EOS_ID]),
        (None, "hh_hash", "single", "###Human: why?###Assistant: because", [tiny.EOS_ID]),
    ],
)
def test_single_is_exactly_one(
    template: str | None, format: Format, eos: Eos, text: str, ends: list[int]
) -> None:
    assert encoder(template, format, eos=eos).encode([TALK], ["x"]) == [ids_of(text, *ends)]


def test_plain_texts_and_rendered_ones_get_the_same_end() -> None:
    plain = encoder(format="plain", eos="single")
    assert plain.encode(["a\n", "a</s>"], ["x", "y"]) == [
        ids_of("a\n", tiny.EOS_ID),  # the line break is the text's own
        ids_of("a", tiny.EOS_ID),
    ]
    assert plain.encode([Rendered("<s>a</s>\n")], ["x"]) == [ids_of("a", tiny.EOS_ID)]


@pytest.mark.parametrize("side", ["left", "right"])
def test_what_is_too_long_keeps_its_end(side) -> None:
    made = encoder(format="plain", eos="single", max_length=8, truncation_side=side)
    (ids,) = made.encode([tiny.chat("why?", "because of it")], ["x"])
    kept = "why?be" if side == "right" else " of it"
    assert ids == ids_of(kept, tiny.EOS_ID)
    # the end alone is no response
    tight = encoder(format="plain", eos="single", max_length=6, truncation_side="right")
    with pytest.raises(Exception, match="nothing of its response"):
        tight.encode([TALK], ["x"])
    with pytest.raises(InputError, match="no room"):
        encoder(format="plain", eos="single", max_length=2)


def test_a_tokenizer_without_an_end_token_is_told() -> None:
    made = tiny.tokenizer()
    made.eos_token = None
    with pytest.raises(InputError, match="no EOS token"):
        Encoder(made, format="plain", bos="single", eos="single", vocabulary=259)


@pytest.mark.slow
def test_defaults_by_format_and_by_what_is_known(tmp_path, caplog) -> None:
    bare = tiny.tokenizer(chat_template=None)
    plain = tiny.checkpoint(tmp_path / "plain", "llama", bare)
    with caplog.at_level(logging.INFO, logger="rewards"):
        assert load_reward(plain).encoder.eos == "single"
    assert sum('eos="single"' in record.getMessage() for record in caplog.records) == 1
    assert load_reward(plain, format="hh_hash").encoder.eos == "none"
    assert load_reward(plain, eos="none").describe()["eos"] == "none"
    chat = tiny.checkpoint(tmp_path / "chat", "llama")
    assert load_reward(chat).encoder.eos == "none"
    known = tiny.checkpoint(tmp_path / "hh_rlhf_rm_open_llama_3b", "llama", bare)
    assert load_reward(known, format="plain").encoder.eos == "none"
    # written down by our training; what was trained before there was such a setting had none
    write_record(plain, {"format": "plain", "bos": "single"})
    assert load_reward(plain).encoder.eos == "none"
    write_record(chat, {"format": "chat", "bos": "single", "eos": "single"})
    assert load_reward(chat).encoder.eos == "single"


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo"])
def test_scores_are_read_at_the_end_token(folders, family) -> None:
    # shared beginnings are computed once: rows that begin alike, and one that is a beginning
    texts = ["ab", "abc", "abd", "xyz"]
    reward = load_reward(folders[family], format="plain", eos="single")
    expected = [
        tiny.reference_score(folders[family], ids_of(f"q{text}", tiny.EOS_ID)) for text in texts
    ]
    scores = reward.score([tiny.chat("q", text) for text in texts])
    np.testing.assert_allclose(scores, expected, atol=1e-5)


def test_servers_get_ids_and_texts_with_their_end() -> None:
    made = tiny.tokenizer(chat_template=CHATML)
    texts = Texts(made, format="chat", eos="single")
    expected = ids_of("[user]why?</s>\n[assistant]because", tiny.EOS_ID)
    assert texts.inputs([TALK], ["x"]) == [expected]
    assert texts.queries([TALK], ["x"])[0][0] == "[user]why?</s>\n[assistant]because</s>"
    # OpenRLHF's server adds its own
    assert Texts(made, format="plain").queries([TALK], ["x"])[0][0] == "why?because"
    assert Texts(made, format="plain").inputs([TALK], ["x"]) == [ids_of("why?because", tiny.EOS_ID)]
    with pytest.raises(InputError, match="needs tokenizer"):
        Texts(format="plain", eos="single")


def test_what_our_training_wrote_down_counts_for_servers_and_when_training_goes_on(tmp_path):
    folder = tiny.checkpoint(tmp_path, "llama", tiny.tokenizer(chat_template=CHATML))
    write_record(folder, {"format": "chat", "bos": "none", "eos": "single"})
    expected = ids_of("[user]why?</s>\n[assistant]because", tiny.EOS_ID)[1:]
    assert Texts(str(folder)).inputs([TALK], ["x"]) == [expected]
    model = tiny.model("llama")
    going_on = reading_encoder(
        tiny.tokenizer(chat_template=CHATML), model, ReadingSettings(), str(folder)
    )
    assert going_on.encode([TALK], ["x"]) == [expected]


def rows(count: int, seed: int) -> list[dict[str, str]]:
    """The better answer names the right person."""
    draw = random.Random(seed)
    names = ["Tom", "Lily", "Ben", "Sue", "Max", "Anna"]
    pairs = [draw.sample(names, 2) for _ in range(count)]
    return [
        {
            "prompt": f"{right} had a ball.",
            "chosen": f" It was {right}'s ball.",
            "rejected": f" It was {other}'s ball.",
        }
        for right, other in pairs
    ]


@pytest.fixture(scope="module")
def trained(raft_data, tmp_path_factory):
    """A model of TRL's RewardTrainer on plain text, and the accuracy that TRL measures."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForSequenceClassification, AutoTokenizer
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    base, root = raft_data / "models" / "stories260k", tmp_path_factory.mktemp("trl")
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.chat_template = None
    settings = RewardConfig(
        output_dir=str(root / "out"), num_train_epochs=1, learning_rate=1.5e-3, seed=0,
        per_device_train_batch_size=8, save_strategy="no", report_to=[], use_cpu=True, bf16=False,
        gradient_checkpointing=False, disable_tqdm=True,
    )  # fmt: skip
    torch.manual_seed(0)  # the head is drawn before the trainer sets its seed
    trainer = RewardTrainer(
        model=AutoModelForSequenceClassification.from_pretrained(base, num_labels=1),
        args=settings,
        train_dataset=Dataset.from_list(rows(240, seed=0)),
        eval_dataset=Dataset.from_list(rows(64, seed=1)),
        processing_class=tokenizer,
    )
    trainer.train()
    accuracy = trainer.evaluate()["eval_accuracy"]
    trainer.save_model(str(root / "model"))
    (root / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows(64, seed=1))))
    return root, accuracy


@pytest.mark.slow
def test_a_model_that_trl_trained_on_plain_text_scores_as_it_does_there(trained, capsys) -> None:
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    root, accuracy = trained
    data = str(root / "pairs.jsonl")
    assert main(["eval-reward", "--data", data, "--reward", str(root / "model"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["models"]["model"]["accuracy"]["accuracy"] == pytest.approx(accuracy)

    model = AutoModelForSequenceClassification.from_pretrained(root / "model").eval()
    tokenizer = AutoTokenizer.from_pretrained(root / "model")
    talks = [tiny.chat(one["prompt"], one[side]) for one in rows(64, 1) for side in SIDES]
    expected = []
    for talk in talks:
        ids = tokenizer("".join(m["content"] for m in talk))["input_ids"]
        with torch.no_grad():
            ids_1T = torch.tensor([[*ids, tokenizer.eos_token_id]])
            expected.append(float(model(ids_1T).logits[0, 0]))
    scores = load_reward(root / "model").score(talks)
    np.testing.assert_allclose(scores, expected, atol=1e-5)
    without = load_reward(root / "model", eos="none").score(talks)
    assert np.corrcoef(without, expected)[0, 1] < 0.5


@pytest.mark.slow
@pytest.mark.parametrize(("eos", "level"), [("single", "ok"), ("none", "wrong")])
def test_doctor_asks_pairs_which_end_is_meant(trained, capsys, eos, level) -> None:
    root, accuracy = trained
    given = ["--reward", str(root / "model"), "--data", str(root / "pairs.jsonl"), "--eos", eos]
    assert main(["doctor", *given, "--json"]) == (level == "wrong")
    findings = json.loads(capsys.readouterr().out)["findings"]
    (found,) = (one for one in findings if one["what"] == "end token")
    assert found["level"] == level
    assert ("eos single" in found["fix"]) == (level == "wrong")
    measured = found["values"]["accuracy" if eos == "single" else "other_accuracy"]
    assert measured == pytest.approx(accuracy)


SIDES = ("chosen", "rejected")


@pytest.mark.parametrize(
    ("template", "eos", "ends"),
    [(None, None, [tiny.EOS_ID]), (None, "none", []), (CHATML, "single", [tiny.EOS_ID])],
)
def test_vllm_is_given_the_ids_that_transformers_are(tmp_path, monkeypatch, template, eos, ends):
    import rewards.models.classifier as classifier

    made = tiny.tokenizer(chat_template=template)
    folder = tiny.checkpoint(tmp_path / "model", "llama", made)
    given: dict[str, list[list[int]]] = {}

    class Engine:
        def __init__(self, name: str) -> None:
            self.name = name

        def run(self, rows, names):
            given[self.name] = [list(row) for row in rows]
            return {"score": np.zeros(len(rows), dtype=np.float32)}

        def describe(self):
            return {"engine": self.name}

    monkeypatch.setattr(classifier, "VLLMPoolingEngine", lambda *_, **__: Engine("vllm"))
    monkeypatch.setattr(classifier, "TransformersEngine", lambda *_: Engine("transformers"))
    for engine in ("vllm", "transformers"):
        load_reward(folder, engine=engine, device="cpu", eos=eos).score([TALK, tiny.chat("a", "b")])
    text = "[user]why?</s>\n[assistant]because" if template else "why?because"
    assert given["vllm"][0] == ids_of(text, *ends)
    assert given["vllm"] == given["transformers"]
