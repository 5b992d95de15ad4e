"""Preference data out of files: what is read, drawn, counted, refused, and what is contaminated."""

from __future__ import annotations

import gzip
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rewards.data.read import PairSet, PairSource, read_pairs, read_rated
from rewards.data.source import parse_sources
from rollout.errors import InputError


def write(path: Path, *rows: object) -> str:
    """JSONL of `rows`; a string goes in as it stands."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return str(path)


def row(number: int, **more: Any) -> dict[str, Any]:
    return {"prompt": f"Q{number}", "chosen": f"good {number}", "rejected": "bad", **more}


def unified(number: int, first: float, second: float, source: str = "ultrachat") -> dict[str, Any]:
    def dialogue(answer: str) -> list[dict[str, str]]:
        asked = {"role": "user", "content": f"Q{number}"}
        return [asked, {"role": "assistant", "content": f"{answer}{number}"}]

    return {
        "id": f"u{number}",
        "conv_A": dialogue("a"),
        "conv_B": dialogue("b"),
        "conv_A_rating": first,
        "conv_B_rating": second,
        "num_turns": 1,
        "source": source,
    }


def refused(read: Callable[[], Any]) -> str:
    with pytest.raises(InputError) as caught:
        read()
    assert "\n" not in str(caught.value)
    return str(caught.value)


def dropped(found: PairSet, at: int = 0) -> dict[str, tuple[int, list[str]]]:
    of = found.report.sources[at].dropped
    return {reason: (one.count, one.places) for reason, one in of.items()}


# ---------------------------------------------------------------------------------- what is read


def test_rows_become_pairs_in_their_order(tmp_path):
    path = write(tmp_path / "p.jsonl.gz", row(1), "", row(2, id="mine", extra=5))
    found = read_pairs(path)
    assert [p.id for p in found.pairs] == ["p-000001", "mine"]
    assert [p.chosen for p in found.pairs] == ["good 1", "good 2"]
    assert found.pairs[1].fields == {"extra": 5} and found.pairs[0].source == "p"
    assert found.report.lines() == [f"{path} (pair): 2 rows, 2 pairs"]


def test_margins_of_plain_rows_are_the_pairs_own(tmp_path):
    path = write(tmp_path / "p.jsonl", row(1, margin=1.5), row(2), row(3, margin=None))
    assert [p.margin for p in read_pairs(path).pairs] == [1.5, None, None]
    assert all(p.fields == {} for p in read_pairs(path).pairs)
    wrong = write(tmp_path / "w.jsonl", row(1, margin=1), '{"prompt": "Q", "chosen": "a", '
                  '"rejected": "b", "margin": NaN}')  # fmt: skip
    assert refused(lambda: read_pairs(wrong)).startswith(f"{wrong}:2: 'margin' is nan, no finite")


def test_what_is_dropped_is_counted_with_its_lines(tmp_path):
    bad = [row(n) | {"rejected": f"good {n}"} for n in range(2, 7)]
    path = write(tmp_path / "p.jsonl", row(1), *bad, row(7, chosen=" "), row(1), row(8))
    found = read_pairs(path)
    assert dropped(found) == {
        "identical sides": (5, [f"{path}:{n}" for n in (2, 3, 4)]),
        "empty reply": (1, [f"{path}:7"]),
        "duplicate": (1, [f"{path}:8"]),
    }
    one, *places = found.report.lines()
    assert "9 rows, 2 pairs, 5 dropped: identical sides, 1 dropped: empty reply" in one
    assert "  identical sides: at 2, 3, 4, …" in places
    assert "  duplicate: at 8" in places


def test_strict_makes_a_bad_row_an_error_but_not_a_tie(tmp_path):
    path = write(tmp_path / "p.jsonl", row(1), row(2, rejected=""))
    assert f"{path}:2: empty reply" in refused(lambda: read_pairs(path, strict=True))
    path = write(tmp_path / "u.jsonl", unified(1, 1, 0), unified(2, 1, 1))
    assert len(read_pairs(path, strict=True).pairs) == 1


def test_several_sources_and_their_names(tmp_path):
    first = write(tmp_path / "a.jsonl", row(1), row(2, source="of the row"))
    second = write(tmp_path / "b.jsonl", row(1), row(3))
    found = read_pairs([{"path": first}, PairSource(path=second, source="named")])
    # the pair that stands in both files is kept once
    assert [(p.source, p.chosen) for p in found.pairs] == [
        ("a", "good 1"),
        ("of the row", "good 2"),
        ("named", "good 3"),
    ]
    assert "duplicate" in dropped(found, 1)
    assert found.report.by_origin == {"a": 1, "of the row": 1, "named": 1}
    kept = read_pairs([first, {"path": second, "duplicates": "keep"}])
    assert len(kept.pairs) == 4


def test_ids_that_stand_twice_get_numbers(tmp_path):
    path = write(tmp_path / "p.jsonl", row(1, id="x"), row(2, id="x"), row(3, id="x~2"))
    found = read_pairs(path)
    assert [p.id for p in found.pairs] == ["x", "x~3", "x~2"]
    assert "1 ids stood twice" in found.report.lines()[-1]


def test_people_who_disagree_are_counted(tmp_path):
    other = {"prompt": "Q1", "chosen": "bad", "rejected": "good 1"}
    found = read_pairs(write(tmp_path / "p.jsonl", row(1), other))
    assert len(found.pairs) == 2 and found.report.reversed_pairs == 1
    assert any("disagree" in line for line in found.report.lines())


def test_json_parquet_and_a_loaded_dataset(tmp_path, monkeypatch):
    import datasets
    import pyarrow as pa
    import pyarrow.parquet as pq

    rows = [unified(n, n % 3, 1) for n in range(6)]
    listed = tmp_path / "u.json"
    listed.write_text(json.dumps(rows))
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "u.parquet")
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *name, split: datasets.Dataset.from_list(rows)
    )
    found = [
        read_pairs({"path": path, "split": "val"})
        for path in (str(listed), str(tmp_path / "u.parquet"), "llm-blender/Unified-Feedback:all")
    ]
    assert found[0].pairs == found[1].pairs == found[2].pairs
    assert dropped(found[2]) == {
        "tie": (
            2,
            ["llm-blender/Unified-Feedback:all: row 2", "llm-blender/Unified-Feedback:all: row 5"],
        )
    }


def test_the_form_is_recognised_and_said_once(tmp_path, caplog):
    path = write(tmp_path / "u.jsonl", unified(1, 1, 0), unified(2, 1, 0))
    with caplog.at_level(logging.INFO, logger="raft"):
        read_pairs(path)
    (message,) = [r.getMessage() for r in caplog.records if "read as" in r.getMessage()]
    assert message.startswith(f"{path}: read as unified_feedback (columns conv_A, conv_B")


def test_helpsteer_rows_of_one_prompt_stand_together(tmp_path):
    def rated(prompt: str, response: str, helpful: int) -> dict[str, Any]:
        rest = {"correctness": 2, "coherence": 2, "complexity": 2, "verbosity": 2}
        return {"prompt": prompt, "response": response, "helpfulness": helpful, **rest}

    rows = [rated("Q", "a", 1), rated("Q", "b", 3), rated("R", "c", 2), rated("Q", "d", 4)]
    found = read_pairs(write(tmp_path / "h.jsonl", *rows))
    assert [(p.chosen, p.rejected) for p in found.pairs] == [("b", "a")]
    assert dropped(found)["nothing to compare"][0] == 2
    assert found.report.sources[0].rows == 4
    assert found.report.labels["helpsteer-helpfulness"] == (2, 0.3, 0.7)
    assert any("helpsteer-verbosity: 2 labels, all 0.5" in s for s in found.report.lines())


# ---------------------------------------------------------------------------------- what is drawn


def test_every_counts_what_is_no_tie(tmp_path):
    # the recipe filters ties first and then takes every 2nd ("400k") or 20th ("40k") row
    rng = random.Random(0)
    rows = [unified(n, rng.randrange(3), rng.randrange(3)) for n in range(100)]
    path = write(tmp_path / "u.jsonl", *rows)
    untied = [r for r in rows if r["conv_A_rating"] != r["conv_B_rating"]]
    for every in (2, 20):
        found = read_pairs({"path": path, "every": every})
        assert [p.id for p in found.pairs] == [r["id"] for r in untied[::every]]
        report = found.report.sources[0]
        assert report.left_out["every"] == len(untied) - report.made
        assert report.dropped["tie"].count == 100 - len(untied)


def test_tables_have_the_eight_sources(tmp_path):
    names = ["Anthropic/hh-rlhf", "flan_v2_cot", "ultrachat", "berkeley-nest/Nectar"]
    rows = [unified(n, 1, 0, name) for n, name in enumerate(names)]
    found = read_pairs(write(tmp_path / "u.jsonl", *rows))
    assert found.report.by_origin == {"ultrafeedback": 2, "hh-rlhf": 1, "nectar": 1}


def test_a_fraction_is_of_its_seed_and_not_of_the_order(tmp_path):
    rows = [row(n) for n in range(400)]
    path, other = write(tmp_path / "a.jsonl", *rows), write(tmp_path / "b.jsonl", *rows[::-1])
    drawn = [p.chosen for p in read_pairs({"path": path, "fraction": 0.25}).pairs]
    assert 60 < len(drawn) < 140
    assert drawn == sorted(drawn, key=lambda text: int(text.split()[1]))
    again = [p.chosen for p in read_pairs({"path": other, "fraction": 0.25}).pairs]
    assert sorted(again) == sorted(drawn)
    differently = [p.chosen for p in read_pairs({"path": path, "fraction": 0.25}, seed=1).pairs]
    assert differently != drawn
    # a greater fraction holds the smaller one
    more = [p.chosen for p in read_pairs({"path": path, "fraction": 0.5}).pairs]
    assert set(drawn) < set(more)


def test_limit_and_where(tmp_path):
    path = write(tmp_path / "p.jsonl", *(row(n, lang="de" if n % 2 else "en") for n in range(10)))
    found = read_pairs({"path": path, "where": {"lang": "de"}, "limit": 2})
    assert [p.chosen for p in found.pairs] == ["good 1", "good 3"]
    assert "2 left out by where, stopped at the limit" in found.report.lines()[0]
    both = read_pairs({"path": path, "where": {"lang": ["de", "en"]}})
    assert len(both.pairs) == 10
    assert "'mood'" in refused(lambda: read_pairs({"path": path, "where": {"mood": 1}}))


# -------------------------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([], "no pair is left of it (0 rows, 0 pairs)"),
        ([row(1, rejected="good 1")], "1 dropped: identical sides; the first at"),
        ([row(1, chosen="")], "1 dropped: empty reply"),
        ([unified(1, 1, 1)], "1 dropped: tie"),
        ([["a"]], ":1: holds a list where an object is expected"),
        (["{"], ":1: not valid JSON"),
        ([row(1), {"prompt": "Q", "chosen": "a"}], ":2: no column 'rejected'"),
        ([row(1), row(2, chosen=3)], ":2: 'chosen' is a number where a text is expected"),
        ([row(1, id=True)], ":1: id is true or false"),
        ([{"text": "Q"}], "no format of pairs has the columns text"),
        ([{"prompt": "Q", "response": "a", "labels": {"wit": 1}}], "no format of pairs"),
    ],
)
def test_files_of_which_nothing_can_be_made(tmp_path, rows, words):
    path = write(tmp_path / "p.jsonl", *rows)
    message = refused(lambda: read_pairs(path))
    assert words in message and message.startswith(path)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ([], "no source"),
        ({}, "without a path"),
        ({"path": "x.jsonl"}, "x.jsonl: no such file"),
        ({"path": "x.jsonl", "formt": "hh"}, "key 'formt' is not known"),
        ({"path": "x.jsonl", "format": "csv"}, "format: 'csv' is not known"),
        ({"path": "x.jsonl", "fraction": 0}, "fraction: 0"),
        ({"path": "x.jsonl", "every": 0}, "every: 0"),
        ({"path": "x.jsonl", "every": None}, "every: None"),
        ({"path": "x.jsonl", "limit": -1}, "limit: -1"),
        ({"path": "x.jsonl", "limit": "5"}, "limit: '5'"),
        ({"path": "x.jsonl", "fraction": "0.5"}, "fraction: '0.5'"),
        ({"path": "x.jsonl", "where": "lang=de"}, "where: 'lang=de'"),
        ({"path": "x.jsonl", "pairs": "some"}, "pairs: 'some'"),
        ({"path": "x.jsonl", "format": "rated"}, "make no pairs"),
    ],
)
def test_sources_that_are_none(source, words):
    message = refused(lambda: read_pairs(source))
    assert words in message and "prompts." not in message


# ------------------------------------------------------------------------------------ rated rows


def test_rated_responses_keep_missing_labels_missing(tmp_path):
    rows = [
        {"prompt": "Q", "response": "a", "labels": {"wit": 0.5, "tact": None}},
        {"prompt": "Q", "response": "b", "labels": {"wit": 0.75}},
        {"prompt": "Q", "response": "c", "labels": {}},
        {"prompt": "Q", "response": "", "labels": {"wit": 1}},
    ]
    path = write(tmp_path / "r.jsonl", *rows)
    found = read_rated(path, attributes=["tact", "wit"])
    assert [dict(one.labels) for one in found.rated] == [{"wit": 0.5}, {"wit": 0.75}]
    assert [m["content"] for m in found.rated[1].conversation] == ["Q", "b"]
    assert found.report.labels == {"tact": (0, 0, 0), "wit": (2, 0.5, 0.75)}
    lines = found.report.lines()
    assert "  tact: no label at all" in lines and "2 rated" in lines[0]
    assert found.report.sources[0].dropped["no rating"].places == [f"{path}:3"]
    only = write(tmp_path / "n.jsonl", rows[2])
    assert "no rated response is left" in refused(lambda: read_rated(only))
    pairs = write(tmp_path / "p.jsonl", row(1))
    assert "no format of rated" in refused(lambda: read_rated(pairs))
    as_pairs = {"path": pairs, "format": "pair"}
    assert "have no ratings" in refused(lambda: read_rated(as_pairs))


def test_labels_off_the_scale_are_said(tmp_path):
    rows = [{"prompt": "Q", "response": str(n), "labels": {"wit": n}} for n in range(4)]
    found = read_rated(write(tmp_path / "r.jsonl", *rows))
    assert any("outside 0 to 1" in line for line in found.report.lines())


# ----------------------------------------------------------------------------------- the real data


@pytest.mark.slow
def test_real_hh_counts(raft_data):
    # counted row by row from the raw text, without any of our code
    for name in ("helpful-base", "harmless-base", "helpful-rejection-sampled"):
        path = raft_data / "data" / "hh-rlhf" / "dev" / f"{name}.jsonl.gz"
        mark, kept, counts = (
            "\n\nAssistant:",
            set(),
            dict.fromkeys(
                ("identical sides", "empty reply", "conversations differ before the last response"),
                0,
            ),
        )
        duplicates = 0
        for line in gzip.decompress(path.read_bytes()).decode().splitlines():
            row = json.loads(line)
            (before, _, good), (other, _, bad) = (
                row[key].rpartition(mark) for key in ("chosen", "rejected")
            )
            if row["chosen"].strip() == row["rejected"].strip():
                counts["identical sides"] += 1
            elif before != other:
                counts["conversations differ before the last response"] += 1
            elif not good.strip() or not bad.strip():
                counts["empty reply"] += 1
            elif (row["chosen"].strip(), row["rejected"].strip()) in kept:
                duplicates += 1
            else:
                kept.add((row["chosen"].strip(), row["rejected"].strip()))
        found = read_pairs(str(path))
        expected = {**counts, "duplicate": duplicates}
        assert {k: n for k, (n, _) in dropped(found).items()} == {
            k: n for k, n in expected.items() if n
        }
        assert len(found.pairs) == len(kept)


@pytest.mark.parametrize(("old", "new"), [("cut", "truncate"), ("drop", "drop")])
def test_the_old_name_of_diverging_prompts_is_read_and_the_new_one_logged(old, new, caplog):
    (source,) = parse_sources({"path": "x.jsonl", "parted": old})
    assert source.diverging_prompts == new
    assert f"diverging_prompts: {new}" in caplog.text
    with pytest.raises(InputError, match="'apart'"):
        parse_sources({"path": "x.jsonl", "parted": "apart"})


def test_rows_that_cannot_be_read_are_dropped_on_request(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    good = [{"prompt": f"q{n}", "chosen": f"a{n}", "rejected": "b"} for n in range(3)]
    bad = ['{"prompt": "q", "chosen": "a", "rejected": null}', "{", "[1]", '{"prompt": "q"}',
           '{"prompt": "", "chosen": "a", "rejected": "b"}']  # fmt: skip
    lines = [json.dumps(good[0]), *bad, *bad, *map(json.dumps, good[1:])]
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(InputError):
        read_pairs([str(file)])
    found = read_pairs([str(file)], on_bad_row="skip")
    assert [pair.chosen for pair in found.pairs] == read_chosen(tmp_path, good)
    (report,) = found.report.sources
    assert report.rows == 13 and sum(one.count for one in report.dropped.values()) == 10
    assert all(one.count == 2 for one in report.dropped.values()) and report.made == 3
    assert any(
        place.startswith(f"{file}:2") for one in report.dropped.values() for place in one.places
    )


def read_chosen(folder: Path, rows: list[dict[str, str]]) -> list[Any]:
    """Of the same pairs in a file without bad rows."""
    file = folder / "good.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return [pair.chosen for pair in read_pairs([str(file)]).pairs]
