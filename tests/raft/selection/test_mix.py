"""Rows that an update learns beside what was drawn: which, how many, and in what tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import toy_runs

from raft.config.load import make_config
from raft.loop import run
from raft.selection.mix import read_mix, write_mixed
from raft.selection.rows import SelectedRow, read_selected
from raft.updates.rows import MIXED, sft_rows
from rollout.types import InputError

ROWS: list[dict[str, object]] = [
    {"prompt": "tree", "response": "good river"},
    {"messages": [{"role": "user", "content": "tree"}, {"role": "assistant", "content": "bad"}]},
    {"text": "house tree river good"},
]


def mixing(
    root: Path, rows: Sequence[Mapping[str, object]], share: float = 0.25, **train: Any
) -> Any:
    toy_runs.write_rows(root / "mix.jsonl", rows)
    mix = {"path": str(root / "mix.jsonl"), "share": share}
    return toy_runs.settings(root, train={"mix": mix, **train}, policy={"template": "hh_hash"})


def test_examples_are_read_in_every_form(tmp_path: Path) -> None:
    found = read_mix(make_config(mixing(tmp_path, ROWS)))
    assert [(one.prompt.content, one.response) for one in found] == [
        ("tree", "good river"),
        (({"role": "user", "content": "tree"},), "bad"),
        ("house tree river good", None),
    ]
    (tmp_path / "plain.txt").write_text("one text\n\nanother\n")
    settings = mixing(tmp_path, ROWS)
    settings["train"]["mix"]["path"] = str(tmp_path / "plain.txt")
    assert [one.prompt.content for one in read_mix(make_config(settings))] == [
        "one text",
        "another",
    ]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"score": 1}, "mix.jsonl:1: has neither a response nor a text"),
        ({"prompt": "tree", "response": 3}, "mix.jsonl:1"),
    ],
)
def test_a_row_that_is_no_example_is_named(tmp_path: Path, row: Any, message: str) -> None:
    settings = mixing(tmp_path, [row])
    with pytest.raises(InputError, match=f"train.mix: .*{message}"):
        run(make_config(settings))  # before anything starts


def test_tokens_are_the_policys_and_end_the_text(tmp_path: Path) -> None:
    folder, made = tiny.checkpoint(tmp_path / "policy", "llama"), tiny.tokenizer()
    rows = [
        {"prompt": "Once", "response": " upon a time"},
        {"text": "The cat sat on the mat. " * 30},
        {"prompt": "Once", "response": " upon a time" * 200},
    ]
    toy_runs.write_rows(tmp_path / "mix.jsonl", rows)
    settings = toy_runs.settings(
        tmp_path,
        policy={"model": str(folder)},
        train={"mix": {"path": str(tmp_path / "mix.jsonl"), "share": 0.5}},
    )
    config = make_config(settings)
    write_mixed(config, read_mix(config), tmp_path, drawn=2, iteration=1)
    found = {row.id: row for row in read_selected(tmp_path / MIXED)}
    answer, text = found["mix-000001"], found["mix-000002"]
    assert answer.prompt_token_ids == made("Once")["input_ids"]
    bare = made(" upon a time", add_special_tokens=False)["input_ids"]
    assert answer.token_ids == [*bare, tiny.EOS_ID]
    # a text is learned whole but for its first token, and cut where the policy ends; a response
    # that does not fit is not cut, which would teach to stop in mid-sentence
    assert text.prompt_token_ids == [tiny.BOS_ID]
    whole = made(rows[1]["text"])["input_ids"]
    assert [tiny.BOS_ID, *text.token_ids] == whole[: tiny.CONTEXT]
    assert "mix-000003" not in found


def test_their_number_is_the_share_and_their_choice_the_seeds(tmp_path: Path) -> None:
    rows = [{"prompt": "tree", "response": f"good {n}"} for n in range(40)]
    config = make_config(mixing(tmp_path, rows))
    examples = read_mix(config)

    def chosen(drawn: int, iteration: int) -> list[str]:
        write_mixed(config, examples, tmp_path, drawn, iteration)
        return [row.id for row in read_selected(tmp_path / MIXED)]

    first = chosen(30, 1)
    assert len(first) == len(set(first)) == 10  # a quarter of 40
    assert chosen(30, 1) == first != chosen(30, 2)
    assert len(chosen(300, 1)) == 40  # what there is


@pytest.mark.slow
def test_a_run_learns_them_and_repeats(tmp_path: Path) -> None:
    settings = mixing(tmp_path, [{"prompt": "tree", "response": "river"}], share=0.4)
    folder = run(make_config(settings))
    home = folder / "iterations/001"
    selected, mixed = list(sft_rows(home / "selected.jsonl", "response")), home / MIXED
    labels = [label for row in sft_rows(mixed, "response") for label in row["labels"] if label >= 0]
    (row,) = read_selected(mixed)
    assert isinstance(row, SelectedRow) and labels == row.token_ids == [5, 0]
    own = sum(label >= 0 for row in selected for label in row["labels"])
    metrics = toy_runs.metrics(folder)
    assert metrics[1]["train/loss_tokens"] == own + len(labels)
    # another file under the same name belongs to another run
    (tmp_path / "mix.jsonl").write_text(json.dumps({"prompt": "tree", "response": "bad"}) + "\n")
    with pytest.raises(InputError, match="prompts"):
        run(make_config({**settings, "iterations": 4}))
