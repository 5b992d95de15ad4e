"""Encoders: the logits of transformers' own classes, for a text and for a pair of texts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import reward_layouts as layouts
import tiny_rewards as tiny
import torch
from wording import says

from rewards import RewardError, load_reward
from rollout.types import InputError

TALKS = [tiny.chat("why?", "because"), tiny.chat("a longer question, so that others pad", "no")]
SIZES = {
    "vocab_size": 261, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
    "intermediate_size": 32, "max_position_embeddings": 96, "pad_token_id": 2, "num_labels": 1,
    "initializer_range": 0.3,
}  # fmt: skip
MODELS = {
    "bert": {},
    "roberta": {"type_vocab_size": 1},
    "deberta-v2": {"pos_att_type": ["p2c", "c2p"], "relative_attention": True},
    "modernbert": {"cls_token_id": 259, "sep_token_id": 260},
}


def tokenizer(template=None):
    """[CLS] and [SEP] around a text, and a type of its own for the second of a pair."""
    from tokenizers import processors

    made = tiny.tokenizer(chat_template=template)
    made.add_special_tokens({"cls_token": "[CLS]", "sep_token": "[SEP]"})
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 259), ("[SEP]", 260)],
    )
    return made


def encoder(folder, kind, template=None, **changes):
    from transformers import AutoConfig, AutoModelForSequenceClassification

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **MODELS[kind], **changes})
    AutoModelForSequenceClassification.from_config(config).save_pretrained(folder)
    tokenizer(template).save_pretrained(folder)
    return folder


def by_transformers(folder, texts):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    made = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        return [float(model(**made(*one, return_tensors="pt")).logits[0, 0]) for one in texts]


@pytest.mark.slow
@pytest.mark.parametrize("kind", MODELS)
def test_scores_are_those_of_transformers(tmp_path, kind) -> None:
    chat = encoder(tmp_path / "chat", kind, layouts.CHATML)
    expected = by_transformers(chat, [[layouts.text_of(talk)] for talk in TALKS])
    assert np.std(expected) > 1e-3
    reward = load_reward(chat)
    np.testing.assert_allclose(reward.score(TALKS), expected, atol=1e-5)
    assert reward.describe()["pooling"] == "the architecture's own"
    # without a template: prompt and response as a pair
    plain = encoder(tmp_path / "plain", kind)
    pairs = [[one["content"] for one in talk] for talk in TALKS]
    np.testing.assert_allclose(
        load_reward(plain).score(TALKS), by_transformers(plain, pairs), atol=1e-5
    )
    assert load_reward(plain).score(["why?"])[0] == pytest.approx(
        by_transformers(plain, [["why?"]])[0], abs=1e-5
    )


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_long_text_is_cut_between_its_special_tokens(tmp_path, side) -> None:
    folder = encoder(tmp_path, "roberta", layouts.CHATML)
    reward = load_reward(folder, truncation_side=side)
    assert reward.encoder.max_length == 93  # positions begin behind the id of PAD
    talk = tiny.chat("word " * 40, "short") if side == "left" else tiny.chat("q", "word " * 40)
    (ids,) = reward.encoder.encode([talk], ["x"])
    whole = tokenizer()(layouts.text_of(talk))["input_ids"]
    inner = whole[1:-1]
    kept = inner[-91:] if side == "left" else inner[:91]
    assert ids == [259, *kept, 260]
    assert np.isfinite(reward.score([talk])).all()
    with pytest.raises(RewardError, match="nothing of its response"):
        load_reward(folder, truncation_side="right").score([tiny.chat("word " * 40, "short")])


def test_what_encoders_cannot_do_is_said(tmp_path) -> None:
    folder = encoder(tmp_path / "model", "bert")
    cases: list[tuple[dict[str, Any], str]] = [
        ({"engine": "vllm"}, "vLLM use engine: transformers"),
        ({"bos": "single"}, "encoder leave bos and eos out"),
        ({"eos": "single"}, "encoder leave bos and eos out"),
    ]
    for settings, message in cases:
        with pytest.raises(InputError) as caught:
            load_reward(folder, **settings)
        assert says(caught.value, message)
    two = encoder(tmp_path / "two", "bert", num_labels=2)
    with pytest.raises(InputError, match=r"classifier\.weight is \[2, 32\]"):
        load_reward(two)
    tensors = tiny.tensors_of(folder)
    del tensors["classifier.bias"]
    tiny.save_tensors(folder, tensors)
    with pytest.raises(InputError, match=r"lacks the tensor classifier\.bias"):
        load_reward(folder)
