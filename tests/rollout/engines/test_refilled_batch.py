"""Rows of a batch that come and go are continued as each would be alone."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch

from rollout.engines.refilled_batch import RefilledBatch, why_not_refilled
from rollout.engines.transformers import TransformersEngine
from rollout.types import Prompt, Sampling

WINDOW = 8


def model_of(family: str) -> Any:
    """Those of `tiny_models`, and further kinds of attention: windows in every or every other
    layer, positions by a slope of the mask."""
    from transformers import AutoModelForCausalLM, BloomConfig, Gemma2Config, MistralConfig

    sizes: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
        "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2,
    }  # fmt: skip
    made: Any = {
        "mistral": lambda: MistralConfig(**sizes, sliding_window=WINDOW),
        "gemma2": lambda: Gemma2Config(**sizes, sliding_window=WINDOW, query_pre_attn_scalar=32),
        "bloom": lambda: BloomConfig(vocab_size=320, hidden_size=64, n_layer=2, n_head=2),
    }
    if family not in made:
        return tiny.model(family)
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(made[family](), attn_implementation="eager").eval()


@pytest.mark.slow
@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neo", "mistral", "gemma2", "bloom"])
def test_rows_have_the_logits_of_rows_alone(family: str) -> None:
    model = model_of(family)
    assert why_not_refilled(model) is None
    draw = random.Random(0)
    batch, rows = RefilledBatch(model, pad_id=2), list[list[int]]()

    def check(logits_BV: torch.Tensor, those: list[list[int]]) -> None:
        assert len(logits_BV) == len(those)
        for logits_V, row in zip(logits_BV, those, strict=True):
            alone = model(torch.tensor([row])).logits[0, -1]
            torch.testing.assert_close(logits_V, alone, atol=2e-4, rtol=1e-3)

    def fresh() -> list[int]:
        return [draw.randrange(3, 320) for _ in range(draw.choice([1, 3, 12, 30]))]

    with torch.inference_mode():
        for turn in range(40):
            kept = [at for at in range(len(rows)) if draw.random() < 0.8] if turn % 3 == 0 else None
            if rows and kept is not None:
                batch.keep(kept)
                rows = [rows[at] for at in kept]
            if not rows or (len(rows) < 5 and draw.random() < 0.5):
                first = fresh()
                joined = [first, list(first), fresh()]  # samples of one prompt, and another
                check(batch.join(joined), joined)
                rows += joined
            tokens = [draw.randrange(3, 320) for _ in rows]
            rows = [[*row, token] for row, token in zip(rows, tokens, strict=True)]
            check(batch.step(tokens), rows)
            # no wider than its longest row
            assert batch._cache.get_seq_length() >= max(map(len, rows))
        batch.keep(list(range(len(rows))))
        assert batch._cache.get_seq_length() == max(map(len, rows))


def ragged(folder: Path) -> Path:
    """A policy that ends a response at each token with about one in ten."""
    tiny.checkpoint(folder, "llama")
    ends = ", ".join(map(str, range(20, 320, 9)))
    (folder / "generation_config.json").write_text(f'{{"eos_token_id": [{ends}]}}')
    return folder


class Counted:
    """Forward passes of an engine's model: calls, and tokens of all rows, padding too."""

    def __init__(self, engine: TransformersEngine) -> None:
        self.calls, self.tokens = 0, 0
        engine._model.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: object, given: object, named: dict[str, Any]) -> None:
        self.calls += 1
        self.tokens += named["input_ids"].numel()


def prompts(count: int) -> list[Prompt]:
    draw = random.Random(1)
    lengths = [draw.choice([2, 5, 20]) for _ in range(count)]
    return [
        Prompt(f"p{n}", "", token_ids=(0, *(draw.randrange(3, 320) for _ in range(length))))
        for n, length in enumerate(lengths)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(k=3, max_new_tokens=40),
        Sampling(k=2, max_new_tokens=30, temperature=0.7, top_k=20, top_p=0.9, min_new_tokens=6),
        Sampling(k=2, max_new_tokens=30, stop=("a", "th", "e ")),
        Sampling(k=1, max_new_tokens=20, temperature=0),
    ],
    ids=["plain", "cut", "stop", "greedy"],
)
def test_refilled_batches_draw_what_whole_ones_do(tmp_path: Path, sampling: Sampling) -> None:
    folder = str(ragged(tmp_path / "policy"))
    whole = TransformersEngine(folder, batch_size=8)
    whole._refills = False
    expected = {group.prompt.id: group for group in whole.generate(prompts(12), sampling, seed=3)}
    lengths = [len(c.token_ids) for group in expected.values() for c in group.completions]
    assert min(lengths) < max(lengths)
    for size in (1, 3, 8, 64):
        engine = TransformersEngine(folder, batch_size=size)
        assert engine._refills
        found = {group.prompt.id: group for group in engine.generate(prompts(12), sampling, seed=3)}
        assert found == expected, size


@pytest.mark.slow
def test_rows_that_have_ended_cost_nothing(tmp_path: Path) -> None:
    folder = str(ragged(tmp_path / "policy"))
    counts, sampling = {}, Sampling(k=4, max_new_tokens=60)
    for refills in (True, False):
        engine = TransformersEngine(folder, batch_size=16)
        engine._refills = refills
        counted = Counted(engine)
        groups = list(engine.generate(prompts(24), sampling, seed=0))
        counts[refills] = counted
    drawn = sum(len(c.token_ids) for group in groups for c in group.completions)
    read = sum(len(group.prompt.token_ids) for group in groups)
    # the last token of a row is never read; prompts are read once, not for each of 4 responses
    steps = drawn - 4 * len(groups)
    assert steps + read <= counts[True].tokens <= 1.3 * (steps + read)
    assert counts[True].tokens < 0.6 * counts[False].tokens
    assert counts[True].calls < counts[False].calls


def test_other_states_than_keys_and_values_run_whole_batches(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from transformers import AutoModelForCausalLM, Llama4TextConfig, MambaConfig

    config = MambaConfig(
        vocab_size=320, hidden_size=32, num_hidden_layers=2, state_size=4, eos_token_id=1,
        bos_token_id=0, pad_token_id=2,
    )  # fmt: skip
    folder = tmp_path / "mamba"
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    caplog.set_level("INFO", logger="rollout")
    engine = TransformersEngine(str(folder), batch_size=4)
    assert "batches run until their longest row has ended, because Mamba" in caplog.text
    groups = list(engine.generate(prompts(3), Sampling(k=2, max_new_tokens=5), seed=0))
    assert [len(group.completions) for group in groups] == [2, 2, 2]
    chunked = tiny.model("llama")
    chunked.config = Llama4TextConfig(attention_chunk_size=16, num_hidden_layers=4)
    assert "chunks" in str(why_not_refilled(chunked))
