"""The pairwise recipe: what it reads, where its loss is, and the judge that comes out."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any, cast

import pytest
import tiny_judges
import tiny_training as tiny
import torch
from wording import words

from rewards import load_judge
from rewards.judges.prompt import PairPrompt
from rewards.training.pairwise import (
    LabelObjective,
    closing_token,
    encode_comparisons,
    train_pairwise,
)
from rewards.training.settings import TrainingSettings
from rewards.types import Comparison
from rollout.types import InputError

PAIRS = tiny.made_pairs(12)
TRAIN, HELD_OUT = PAIRS[:8], PAIRS[8:]
QUICK = TrainingSettings(learning_rate=3e-3, epochs=2, batch_size=8)
TEMPLATES = [tiny_judges.ALWAYS, tiny_judges.FIXED]


def base(folder: Path, template: str = tiny_judges.FIXED, **changes: Any) -> Path:
    made = tiny_judges.tokenizer(template)
    return tiny.language_model(
        folder, made, max_position_embeddings=1024, pad_token_id=None, **changes
    )


def prompt(template: str = tiny_judges.FIXED) -> PairPrompt:
    made = tiny_judges.tokenizer(template)
    return PairPrompt(made, len(made))


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_row_is_the_judges_prompt_the_label_and_the_end_of_the_turn(template: str) -> None:
    reads = prompt(template)
    comparisons = [Comparison(pair.prompt, pair.chosen, pair.rejected) for pair in PAIRS]
    both = reads.encode_both(comparisons, ["x"] * len(PAIRS))
    examples = encode_comparisons(PAIRS, reads, "both", seed=0).examples
    a, b = reads.label_ids
    eot = reads.tokenizer.convert_tokens_to_ids("<|eot_id|>")
    for number, example in enumerate(examples):
        first, second = (row.tolist() for row in example.rows)
        assert first == [*both[number], a, eot]
        assert second == [*both[number + len(PAIRS)], b, eot]
        assert example.loss_from == (len(first) - 2, len(second) - 2)


def test_the_order_is_a_fair_coin_that_the_id_decides() -> None:
    pairs = tiny.made_pairs(200)
    reads = prompt()
    a = reads.label_ids[0]

    def shown_first(pairs: Any, seed: int) -> dict[str, bool]:
        examples = encode_comparisons(pairs, reads, "one", seed).examples
        assert all(len(example.rows) == 1 for example in examples)
        return {example.id: bool(example.rows[0][-2] == a) for example in examples}

    found = shown_first(pairs, 0)
    assert 70 < sum(found.values()) < 130
    assert shown_first(pairs[::-1][:50], 0).items() <= found.items()
    assert shown_first(pairs, 1) != found


class HandMade(torch.nn.Module):
    """A model whose logits are a function of the position alone: column t is `table[t]`."""

    device = torch.device("cpu")

    def __init__(self, table_TV: torch.Tensor) -> None:
        super().__init__()
        self.table_TV = table_TV

    def forward(self, input_ids: Any, attention_mask: Any, use_cache: bool, **_: Any) -> Any:
        rows, width = input_ids.shape
        logits_BTV = self.table_TV[:width].expand(rows, -1, -1)
        return type("Output", (), {"logits": logits_BTV})


def test_the_loss_is_on_label_and_closing_token_alone() -> None:
    reads = prompt()
    examples = encode_comparisons(PAIRS[:3], reads, "one", seed=0).examples
    vocabulary = len(reads.tokenizer)
    longest = max(example.longest for example in examples)
    table_TV = torch.randn(longest, vocabulary, generator=torch.Generator().manual_seed(0)) * 3
    objective = LabelObjective("padded", 0, reads.label_ids)
    outcome = objective.run(HandMade(table_TV), examples)
    expected = 0.0
    for example in examples:
        (row,) = example.rows
        for position in (len(row) - 2, len(row) - 1):
            logits = table_TV[position - 1].tolist()  # read one place before what they predict
            total = math.log(sum(math.exp(value) for value in logits))
            expected += total - logits[row[position]]
    assert float(outcome.loss) == pytest.approx(expected, rel=1e-5)
    assert sum(map(objective.weight, examples)) == 6


@pytest.mark.slow
@pytest.mark.parametrize("template", TEMPLATES)
def test_the_judge_gives_the_probabilities_of_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, template: str
) -> None:
    seen: dict[str, Any] = {}
    judge = LabelObjective.judge

    def watched(self: Any, values: Any) -> dict[str, float]:
        seen.update(values)
        return judge(self, values)

    monkeypatch.setattr(LabelObjective, "judge", watched)
    start = base(tmp_path / "base", template)
    found = cast("dict[str, Any]", train_pairwise(start, TRAIN, HELD_OUT, tmp_path, training=QUICK))
    loaded = load_judge(tmp_path / "model")
    comparisons = [Comparison(pair.prompt, pair.chosen, pair.rejected) for pair in HELD_OUT]
    expected = seen["margins"].sigmoid().mean(1).tolist()
    assert loaded.compare(comparisons).tolist() == pytest.approx(expected, abs=1e-5)
    wins = sum(probability > 0.5 for probability in expected)
    assert found["eval/accuracy"] == pytest.approx(wins / len(HELD_OUT))
    assert found["reading"]["max_length"] == 1024


@pytest.mark.slow
def test_a_judge_learns_in_both_orders(tmp_path: Path) -> None:
    settings = TrainingSettings(learning_rate=3e-3, epochs=12, batch_size=2, log_steps=1)
    start = base(tmp_path / "base")
    metrics = train_pairwise(start, TRAIN, HELD_OUT, tmp_path, orders="both", training=settings)
    found = cast("dict[str, Any]", metrics)
    # over all tokens with a loss: ln 2 at chance for the labels, next to 0 for the closing tokens
    assert found["train/loss"] < 0.6
    assert 0 <= found["eval/position_bias"] <= 1
    assert found["loss"] == {"orders": "both"}


def test_long_contexts_are_cut_and_long_responses_left_out() -> None:
    reads = prompt()
    reads.max_length = 400
    history = tiny.pair("long", "x" * 500, "yes, gladly", "no")
    endless = tiny.pair("endless", "hello", "y" * 500, "n" * 500)
    encoded = encode_comparisons([history, endless], reads, "both", seed=0)
    assert [example.id for example in encoded.examples] == ["long"]
    assert {len(row) for row in encoded.examples[0].rows} == {400}, "room for the answer is kept"
    assert encoded.dropped == {"whose responses alone are too long": 1}
    assert reads.max_length == 400


def test_dialogues_that_no_judge_reads_are_left_out_and_counted() -> None:
    good = tiny.pair("good", "hello", "yes", "no")
    twice = [*good.prompt, {"role": "user", "content": "are you there?"}]
    bad = dataclasses.replace(good, id="bad", prompt=twice)
    encoded = encode_comparisons([bad, good], prompt(), "both", seed=0)
    assert [example.id for example in encoded.examples] == ["good"]
    assert encoded.dropped == {"whose prompt is not user and assistant in turn": 1}


def test_what_a_template_refuses_is_skipped_on_request() -> None:
    refusing = "{% for m in messages %}{% if 'secret' in m['content'] %}" + (
        "{{ raise_exception('not this') }}{% endif %}{% endfor %}" + tiny_judges.FIXED
    )
    good = tiny.pair("good", "hello", "yes", "no")
    pairs = [
        tiny.pair(f"p{k}", "hello", "a secret" if k % 2 else f"yes {k}", "no") for k in range(5)
    ]
    tools = dataclasses.replace(good, id="tools", prompt=[{**good.prompt[0], "tools": [{}]}])
    with pytest.raises(InputError, match="not this"):
        encode_comparisons(pairs, prompt(refusing), "one", seed=0)
    found = encode_comparisons([*pairs, tools], prompt(refusing), "one", seed=0, skips=True)
    assert [one.id for one in found.examples] == ["p0", "p2", "p4"]
    assert sorted(found.dropped.values()) == [1, 2] and "not this" in " ".join(found.dropped)
    # a call of a tool is more than the empty text that a judge would read
    called = dataclasses.replace(good, chosen="", messages={"chosen": {
        "role": "assistant", "content": "", "tool_calls": [{}]}})  # fmt: skip
    encoded = encode_comparisons([called, good], prompt(), "one", seed=0)
    assert encoded.dropped == {"whose responses are more than their text": 1}


def test_bad_input_is_one_line(tmp_path: Path) -> None:
    same = [tiny.pair("1", "q", "yes", "yes")]
    start = base(tmp_path / "base")
    with pytest.raises(InputError, match=words("no training pairs 1: 1 with two identical")):
        train_pairwise(start, same, HELD_OUT, tmp_path, training=QUICK)
    open_ended = "{% for m in messages %}{{ m['content'] }}\n{% endfor %}[assistant]"
    with pytest.raises(InputError) as caught:
        closing_token(prompt(open_ended))
    assert "\n" not in str(caught.value)
