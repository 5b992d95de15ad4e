"""The same rows from every container, and columns by other names."""

from __future__ import annotations

import csv
import gzip
import io
import json
import sys
from pathlib import Path

import pytest

from rollout.data import sources
from rollout.data.forms import renamed
from rollout.data.rows import read_rows
from rollout.data.sources import find_source, parse_columns
from rollout.errors import InputError

ROWS = [{"prompt": f"Q{k}", "response": "4, or\n5", "score": k + 0.5} for k in range(3)]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def values(path: object, **options: object) -> list[object]:
    return [row.value for row in read_rows(find_source(path, **options))]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "name", ["r.jsonl", "r.ndjson", "r.ndjson.gz", "r.csv", "r.tsv", "r.csv.gz"]
)
def test_files(tmp_path: Path, name: str) -> None:
    content = LINES
    if "sv" in name:
        text = io.StringIO()
        table = csv.DictWriter(text, list(ROWS[0]), delimiter="\t" if "tsv" in name else ",")
        table.writeheader()
        table.writerows(ROWS)
        content = text.getvalue().encode()
    file = tmp_path / name
    file.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
    assert values(file) == ROWS


def test_a_table_keeps_texts_that_look_like_numbers(tmp_path: Path) -> None:
    file = tmp_path / "r.csv"
    file.write_text('prompt,response,score,responses\n1+1?,2,True,"[""a"", ""b""]"\n')
    row = {"prompt": "1+1?", "response": "2", "score": True, "responses": ["a", "b"]}
    assert values(file) == [row]
    file.write_text("prompt,response\na,b,c\n")
    with pytest.raises(InputError, match=r"r.csv:2"):
        values(file)


def test_folders_of_shards(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    for k, row in enumerate(ROWS):
        (tmp_path / f"part-{k}.jsonl").write_text(json.dumps(row) + "\n")
    assert values(tmp_path) == ROWS
    assert [row.number for row in read_rows(find_source(tmp_path))] == [1, 2, 3]
    hub = tmp_path / "hub" / "data"
    hub.mkdir(parents=True)
    for k, name in enumerate(("train-00000", "train-00001", "test-00000")):
        pq.write_table(pa.Table.from_pylist([ROWS[k]]), hub / f"{name}.parquet")
    assert values(hub.parent) == ROWS[:2] and values(hub.parent, split="test") == ROWS[2:]
    with pytest.raises(InputError, match=r"--split test or train"):
        find_source(hub.parent, split="dev")
    (tmp_path / "more.csv").write_text("a\n1\n")
    with pytest.raises(InputError, match="2 forms"):
        find_source(tmp_path)


def test_saved_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    one = datasets.Dataset.from_list(ROWS)
    one.save_to_disk(tmp_path / "one")
    both = datasets.DatasetDict(train=one, test=one.select([2, 0]))  # with a mapping of its rows
    both.save_to_disk(tmp_path / "both")
    assert values(tmp_path / "one") == ROWS == values(tmp_path / "both")
    assert values(tmp_path / "both", split="test") == [ROWS[2], ROWS[0]]
    with pytest.raises(InputError, match="no split 'dev'"):
        find_source(tmp_path / "both", split="dev")


@pytest.mark.parametrize(
    "content", [LINES, json.dumps(ROWS).encode(), gzip.compress(LINES, mtime=0)]
)
def test_standard_input_can_be_read_twice(monkeypatch: pytest.MonkeyPatch, content: bytes) -> None:
    class Stdin:
        buffer = io.BytesIO(content)

    sources._standard_input.cache_clear()  # pyright: ignore[reportPrivateUsage]
    monkeypatch.setattr(sys, "stdin", Stdin())
    assert values("-") == ROWS == values("-")
    sources._standard_input.cache_clear()  # pyright: ignore[reportPrivateUsage]


def test_columns_by_other_and_dotted_names(tmp_path: Path) -> None:
    file = tmp_path / "r.jsonl"
    file.write_text('{"ask": "Q", "reward_model": {"ground_truth": "4"}, "context": "x"}\n')
    names = parse_columns("prompt=ask, answer=reward_model.ground_truth,context=")
    assert names == {"prompt": "ask", "answer": "reward_model.ground_truth", "context": ""}
    assert values(file, columns=names) == [
        {"prompt": "Q", "answer": "4", "reward_model": {"ground_truth": "4"}}
    ]
    with pytest.raises(InputError, match=r"r.jsonl:1: no column 'reward_model.truth'"):
        values(file, columns={"answer": "reward_model.truth"})
    with pytest.raises(InputError, match="prompt"):
        parse_columns("prompt")
    assert renamed({"a": 1, "b": 2}, {"a": "b", "b": "a"}, "") == {"a": 2, "b": 1}
