"""Packed rows: every row is found again, shared tokens are there once, states are the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tiny_rewards as tiny
import torch
from hypothesis import given
from hypothesis import strategies as st

from rewards import load_reward
from rewards.inference.backbone import Backbone
from rewards.inference.prefix_tree import grow, new_tokens, reading_order


@st.composite
def rows_that_share(draw):
    # few stems, so that rows share, are equal, and begin one another
    stems = draw(st.lists(st.lists(st.integers(0, 9), min_size=1, max_size=80), min_size=1))
    rows = []
    for _ in range(draw(st.integers(1, 12))):
        stem = draw(st.sampled_from(stems))
        cut = draw(st.integers(1, len(stem)))
        rows.append(stem[:cut] + draw(st.lists(st.integers(0, 9), max_size=30)))
    return rows


@pytest.mark.slow
@given(rows_that_share())
def test_a_path_through_the_tree_spells_its_row(rows):
    tree = grow(rows)
    for number, row in enumerate(rows):
        indices = [tree.index(number, position) for position in range(len(row))]
        assert tree.ids_T[indices].tolist() == row
        assert tree.positions_T[indices].tolist() == list(range(len(row)))
        with pytest.raises(IndexError):
            tree.index(number, len(row))
        for place, segment in enumerate(tree.paths[number]):
            assert tree.segments[segment].ancestors == tree.paths[number][:place]
    # nothing is there but the rows
    reached = {tree.index(n, p) for n, row in enumerate(rows) for p in range(len(row))}
    assert reached == set(range(len(tree.ids_T)))


@pytest.mark.slow
@given(rows_that_share())
def test_the_batch_planner_knows_the_size_of_the_tree(rows):
    order = reading_order(rows)
    assert sorted(order) == list(range(len(rows)))
    # a beginning that ends shortly after another one ends is not worth a segment of its own
    apart = len(grow(rows).ids_T) - sum(new_tokens(rows, order))
    assert 0 <= apart < 16 * len(rows)


def test_eight_responses_cost_their_prompt_once():
    prompt = list(range(100))
    rows = [[*prompt, 200 + k, 300 + k] for k in range(8)]
    assert len(grow(rows).ids_T) == 100 + 8 * 2
    assert sum(new_tokens(rows, reading_order(rows))) == 100 + 8 * 2
    # equal rows are one
    assert len(grow([prompt] * 5).ids_T) == 100


@pytest.mark.parametrize(
    ("family", "changes"),
    [("llama", {}), ("gpt2", {}), ("mistral", {"sliding_window": 32}), ("gemma2", {})],
)
def test_packed_states_are_those_of_single_rows(family, changes):
    backbone = tiny_backbone(family, **changes)
    assert backbone.layout == "packed"
    draw = np.random.default_rng(1)
    stem = draw.integers(3, 259, size=120).tolist()
    rows = [
        stem[:cut] + draw.integers(3, 259, size=more).tolist()
        for cut, more in ((120, 5), (120, 40), (60, 9), (17, 0), (1, 30), (60, 9), (120, 0))
    ]
    positions = [[0, len(row) // 2, len(row) - 1] for row in rows]
    packed = backbone.states(rows, positions)
    backbone.model.set_attn_implementation("eager")
    for row, wanted, states in zip(rows, positions, packed, strict=True):
        with torch.inference_mode():
            single = backbone._padded([row], [wanted])[0]
        np.testing.assert_allclose(states.numpy(), single.numpy(), atol=2e-5)


def test_an_attention_of_its_own_is_padded_and_said_so(folders, caplog):
    caplog.set_level("INFO", logger="rewards")
    assert load_reward(folders["gpt_neo"]).describe()["layout"] == "padded"
    assert "padded rows, because" in caplog.text
    assert load_reward(folders["llama"]).describe()["layout"] == "packed"


def tiny_backbone(family, **changes):
    from transformers import AutoModel, Gemma2Config, MistralConfig

    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": 259, "hidden_size": 64, "intermediate_size": 64, "num_hidden_layers": 2,
        "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32,
    }  # fmt: skip
    if family == "mistral":
        config = MistralConfig(**sizes, **changes)
    elif family == "gemma2":  # soft-capped scores, and a window in every other layer
        config = Gemma2Config(
            **sizes, sliding_window=32, attn_logit_softcapping=0.05, query_pre_attn_scalar=32
        )
    else:
        config = tiny.config(family)
    model = AutoModel.from_config(
        config, attn_implementation="eager" if family == "gemma2" else None
    )
    return Backbone(model)
