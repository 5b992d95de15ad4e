"""Reading prompts: every form a row may take, and one line for every row that is wrong."""

from __future__ import annotations

import gzip
import json
import logging
import os
import re
import sys
import types
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wording import says

from rollout.data.prompts import read_prompts
from rollout.data.rows import read_rows
from rollout.data.sources import find_source
from rollout.engines.toy import ToyTokenizer
from rollout.errors import InputError
from rollout.text.templates import render
from rollout.types import Message, Prompt

DATA = Path(os.environ.get("RAFT_DATA", Path(__file__).parents[3].with_name("shared"))) / "data"
needs_data = pytest.mark.skipif(
    not DATA.is_dir(), reason="real data is not here; set RAFT_DATA to the folder that holds data/"
)
USER = Message(role="user", content="U")
HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: How are you?\n\nAssistant:"
HH_MESSAGES = (
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Hello."},
    {"role": "user", "content": "How are you?"},
)


def write(path: Path, *rows: object) -> Path:
    """JSONL of `rows`; a string goes in as it stands."""
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    text = "".join(f"{line}\n" for line in lines)
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def contents(prompts: list[Prompt]) -> list[object]:
    return [prompt.content for prompt in prompts]


def refused(path: Path | str, **arguments) -> str:
    with pytest.raises(InputError) as caught:
        read_prompts(path, **arguments)
    message = str(caught.value)
    assert "\n" not in message
    return message


# ------------------------------------------------------------------------------- what is read


@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_jsonl_keeps_order_ids_and_other_columns(tmp_path, name):
    path = write(tmp_path / name, {"prompt": "A", "answer": 3}, "", {"prompt": "B", "id": "b"})
    assert read_prompts(path) == [Prompt("p-000001", "A", {"answer": 3}), Prompt("b", "B")]


def test_a_derived_id_carries_the_line_number(tmp_path):
    path = write(tmp_path / "p.jsonl", "", "", {"prompt": "A"})
    assert read_prompts(path)[0].id == "p-000003"


def test_json_list_and_byte_order_mark(tmp_path):
    path = tmp_path / "p.json"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps([{"prompt": "A"}, {"prompt": "B"}]).encode())
    assert [p.id for p in read_prompts(path)] == ["p-000001", "p-000002"]


def test_parquet(tmp_path):
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet as pq

    rows = [{"prompt": [USER], "id": 7}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "p.parquet")
    assert read_prompts(tmp_path / "p.parquet") == [Prompt("7", (USER,))]


def test_a_name_that_is_no_file_is_a_dataset(monkeypatch):
    asked = []
    fake = types.SimpleNamespace(
        load_dataset=lambda *names, split: asked.append((*names, split)) or [{"prompt": "A"}]
    )
    monkeypatch.setitem(sys.modules, "datasets", fake)
    assert read_prompts("someone/things", split="test")[0].id == "things-000001"
    assert read_prompts("someone/things:main")[0].id == "things-main-000001"
    assert asked == [("someone/things", "test"), ("someone/things", "main", "train")]


@pytest.mark.parametrize("name", ["t.txt", "t.txt.gz"])
def test_text_is_one_prompt_per_line(tmp_path, name):
    path = write(tmp_path / name, "one", "  ", "two ")
    prompts = read_prompts(path)
    assert contents(prompts) == ["one", "two"]
    assert prompts[1].id == "t-000003"


@given(
    st.lists(st.text("ab \n<|", max_size=12), max_size=8),
    st.sampled_from(["<|end|>", "\n---\n", "x"]),
)
def test_documents_are_the_parts_between_separators(tmp_path_factory, documents, separator):
    path = tmp_path_factory.mktemp("d") / "d.txt"
    text = separator.join(documents)
    path.write_text(text, newline="")
    expected = [part.strip() for part in text.split(separator) if part.strip()]
    if not expected:
        assert "holds no prompts" in refused(path, separator=separator)
        return
    assert contents(read_prompts(path, separator=separator)) == expected


def test_documents_longer_than_a_chunk_of_lines(tmp_path, monkeypatch):
    monkeypatch.setattr("rollout.data.rows._LINES_AT_A_TIME", 2)
    path = write(tmp_path / "d.txt", *"abcdefg", "<|", "hi")
    assert contents(read_prompts(path, separator="\n<|\n")) == ["a\nb\nc\nd\ne\nf\ng", "hi"]
    places = [row.where for row in read_rows(find_source(path), separator="\n<|\n")]
    assert places == [f"{path}:1", f"{path}:9"]


def test_first_words_keeps_an_opening_and_its_spacing(tmp_path, caplog):
    path = write(tmp_path / "d.txt", "Once  upon a time", "too short", "it was so")
    with caplog.at_level(logging.INFO, logger="rollout"):
        prompts = read_prompts(path, first_words=3)
    assert contents(prompts) == ["Once  upon a", "it was so"]
    assert "skipped 1 texts of fewer than 3 words" in caplog.text


def test_first_words_leaves_a_short_row_of_jsonl_whole(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "a b c"}, {"prompt": "a"})
    assert contents(read_prompts(path, first_words=2)) == ["a b", "a"]


def test_limit_stops_reading(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "A"}, "{broken")
    assert contents(read_prompts(path, limit=1)) == ["A"]


def test_column(tmp_path):
    path = write(tmp_path / "p.jsonl", {"question": "Q", "answer": "A"})
    assert read_prompts(path, column="question") == [Prompt("p-000001", "Q", {"answer": "A"})]


def test_messages_keep_role_and_content_alone(tmp_path):
    row = {"prompt": [{"role": "system", "content": "S"}, {"role": "user", "content": "U", "x": 1}]}
    (prompt,) = read_prompts(write(tmp_path / "p.jsonl", row))
    assert prompt.content == ({"role": "system", "content": "S"}, {"role": "user", "content": "U"})


def test_format_messages_makes_text_one_user_turn(tmp_path):
    path = write(tmp_path / "p.jsonl", {"prompt": "U"})
    assert contents(read_prompts(path, format="messages")) == [({"role": "user", "content": "U"},)]


# --------------------------------------------------------------------------------- HH-RLHF rows


@pytest.mark.parametrize("format", ["auto", "hh"])
def test_hh_rows_give_the_shared_turns(tmp_path, format):
    row = {"chosen": HH + " Fine.", "rejected": HH + " No."}
    (prompt,) = read_prompts(write(tmp_path / "p.jsonl", row), format=format)
    assert prompt.content == HH_MESSAGES
    assert prompt.fields == row


def test_hh_rows_that_part_early_share_what_they_share(tmp_path):
    early = "\n\nHuman: Hi\n\nAssistant: Hey.\n\nHuman: So?\n\nAssistant: No."
    row = {"chosen": HH + " Fine.", "rejected": early}
    (prompt,) = read_prompts(write(tmp_path / "p.jsonl", row))
    assert prompt.content == HH_MESSAGES[:1]


def test_hh_rows_as_message_lists(tmp_path):
    row = {
        key: [*HH_MESSAGES, {"role": "assistant", "content": key}] for key in ("chosen", "rejected")
    }
    assert contents(read_prompts(write(tmp_path / "p.jsonl", row))) == [HH_MESSAGES]


def test_full_hh_rows_have_the_dialogue_in_the_prompt(tmp_path):
    row = {"prompt": HH, "response": " Fine.", "chosen": " Fine.", "rejected": " No."}
    path = write(tmp_path / "p.jsonl", row)
    assert contents(read_prompts(path)) == [HH_MESSAGES]
    assert contents(read_prompts(path, format="text")) == [HH]


def test_a_pair_row_with_a_plain_prompt_stays_plain(tmp_path):
    row = {"prompt": "Say yes.", "chosen": "yes", "rejected": "no"}
    assert contents(read_prompts(write(tmp_path / "p.jsonl", row))) == ["Say yes."]


turns = st.text("ab\n #:", min_size=1, max_size=10).map(str.strip).filter(bool)


@given(st.lists(st.tuples(turns, turns), max_size=3), turns)
def test_hh_text_comes_back_as_it_was(tmp_path_factory, exchanges, last):
    pairs = [
        (role, said)
        for pair in exchanges
        for role, said in zip(("user", "assistant"), pair, strict=True)
    ]
    messages = tuple(Message(role=r, content=c) for r, c in [*pairs, ("user", last)])
    text = render(Prompt("p", messages), ToyTokenizer(["end"]), "hh")
    path = write(tmp_path_factory.mktemp("h") / "p.jsonl", {"prompt": text})
    assert contents(read_prompts(path, format="hh")) == [messages]


# ------------------------------------------------------------------------------- what is refused

BAD_ROWS = {
    "not an object": ("5", r"holds a number where an object is expected"),
    "broken": ("{broken", "not valid JSON column 2"),
    "empty": ({"prompt": " "}, r"'prompt' is empty"),
    "number": ({"prompt": 3}, r"'prompt' is a number"),
    "null": ({"prompt": None}, r"'prompt' is null"),
    "no column": ({"ask": "Q", "x": 1}, "no column 'prompt' ask, x"),
    "no messages": ({"prompt": []}, r"'prompt' is empty"),
    "empty messages": ({"prompt": [{**USER, "content": ""}]}, r"'prompt' is empty"),
    "no message": ({"prompt": ["hi"]}, r"'prompt' message 1 is not"),
    "no content": ({"prompt": [{"role": "user"}]}, r"'prompt' message 1 is not"),
    "bad role": ({"prompt": [{**USER, "role": "narrator"}]}, "role 'narrator' system, developer"),
    "bad content": ({"prompt": [{**USER, "content": 1}]}, r"message 1 has a number as content"),
    "system last": ({"prompt": [USER, {**USER, "role": "system"}]}, "message of the system"),
    "bad id": ({"prompt": "A", "id": [1]}, r"id is a list"),
    "empty id": ({"prompt": "A", "id": ""}, r"id is an empty string"),
    "surrogate": ('{"prompt": "\\ud83d"}', r"half of a surrogate pair"),
    "no hh": ({"chosen": "a", "rejected": "b"}, "'chosen' is a text and no dialogue"),
    "no shared": (
        {"chosen": HH, "rejected": "\n\nHuman: x\n\nAssistant: y"},
        r"share no user turn",
    ),
}


@pytest.mark.parametrize("row, expected", BAD_ROWS.values(), ids=BAD_ROWS)
@pytest.mark.parametrize("name", ["p.jsonl", "p.jsonl.gz"])
def test_a_bad_row_is_named_by_its_line(tmp_path, name, row, expected):
    path = write(tmp_path / name, {"prompt": "fine"}, "", row)
    assert says(refused(path), f"{name}:3 {expected.replace('p.jsonl', name)}")


@pytest.mark.parametrize(
    "arguments, row, expected",
    [
        ({"column": "q"}, {"prompt": "A"}, "no column 'q' prompt"),
        ({"format": "hh"}, {"prompt": "A"}, "prompts.format: text"),
        ({"format": "text"}, {"prompt": [USER]}, "prompts.format: text reads text"),
        ({"format": "text"}, {"chosen": HH, "rejected": HH}, "no column 'prompt'"),
        ({"first_words": 2}, {"prompt": [USER]}, "prompts.first_words"),
    ],
)
def test_a_row_that_does_not_suit_the_arguments(tmp_path, arguments, row, expected):
    message = refused(write(tmp_path / "p.jsonl", row), **arguments)
    assert says(message, f"p.jsonl:1 {expected}")


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"format": "xml"}, "prompts.format: 'xml' auto, text"),
        ({"limit": 0}, "prompts.limit: 0 is too small"),
        ({"first_words": 0}, "prompts.first_words: 0 is too small"),
        ({"separator": "x"}, "a separator splits plain text only"),
    ],
)
def test_arguments_out_of_range(tmp_path, arguments, expected):
    assert says(refused(write(tmp_path / "p.jsonl", {"prompt": "A"}), **arguments), expected)


def test_text_has_no_columns_and_no_empty_separator(tmp_path):
    path = write(tmp_path / "t.txt", "one")
    assert "plain text has no columns" in refused(path, column="x")
    assert "the separator is empty" in refused(path, separator="")
    assert "t.txt:1: " in refused(path, format="hh")


@pytest.mark.parametrize("name", ["p.jsonl", "p.json", "t.txt", "t.txt.gz"])
def test_an_empty_file_holds_no_prompts(tmp_path, name):
    path = write(tmp_path / name, *(["[]"] if name == "p.json" else [" ", ""]))
    assert says(refused(path), "holds no prompts")


def test_all_texts_too_short(tmp_path):
    message = refused(write(tmp_path / "t.txt", "a", "b"), first_words=2)
    assert says(message, "holds no prompts 2 first_words")


@pytest.mark.parametrize("name", ["no.jsonl", "./no", "a/b/c", "no.csv"])
def test_a_missing_file(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    assert refused(name).startswith(f"{name}: no such file")


def test_folders_and_other_suffixes(tmp_path):
    assert "is a folder without rows" in refused(tmp_path)
    assert says(refused(write(tmp_path / "p.xml", "a")), "suffix .jsonl")
    assert "from its suffix" in refused(write(tmp_path / "p.gz", "a"))


def test_bytes_that_are_not_utf8(tmp_path):
    path = tmp_path / "t.txt"
    path.write_bytes(b"fine\nna\xefve\n")
    assert "t.txt:2: not UTF-8" in refused(path)


@pytest.mark.parametrize(
    ("name", "head", "separator"),
    [("t.txt", b"", None), ("t.csv", b"prompt\n", None), ("t.txt", b"", "==="),
     ("t.tsv", b"prompt\n", None), ("t.jsonl", b"", None)],
)  # fmt: skip
def test_bytes_that_are_not_utf8_are_one_bad_row(tmp_path, name, head, separator):
    path = tmp_path / name
    texts = [b"fine", b"na\xefve", b"\xe2\x80\x9cquoted\xe2\x80\x9d", b"\xff\xfe"]
    if name.endswith("jsonl"):
        texts = [b'{"prompt": "' + text + b'"}' for text in texts]
    path.write_bytes(head + (f"\n{separator}\n" if separator else "\n").encode().join(texts))
    source = find_source(path)
    rows = [row.value for row in read_rows(source, separator=separator, keep_errors=True)]
    assert [isinstance(value, InputError) for value in rows] == [False, True, False, True]
    assert rows[0] == {"prompt": "fine"} and rows[2] == {"prompt": "“quoted”"}
    place = rf"{name}:\d: not UTF-8"
    assert all(re.match(rf".*{place}", str(rows[at])) for at in (1, 3))
    with pytest.raises(InputError, match=place):
        list(read_rows(source, separator=separator))
    path.write_bytes(b"na\xefve\n1\n")
    if name.endswith("sv"):  # no row of it can be read without the names
        with pytest.raises(InputError, match=f"{name}:1: not UTF-8"):
            list(read_rows(source, keep_errors=True))


@pytest.mark.parametrize(
    ("name", "content", "separator", "line"),
    [
        ("t.csv", b'prompt,id\n"a\nna\xefve\nb",1\nc,2\n', None, 3),
        ("T.TSV", b'prompt\tid\na\t1\n"\xff\n"\t2\n', None, 3),
        ("t.txt", b"a\nb\n==\n\nc\nna\xefve\n==\nd", "==", 6),
    ],
)
def test_the_line_that_is_no_utf8_is_named(tmp_path, name, content, separator, line):
    (tmp_path / name).write_bytes(content)
    rows = read_rows(find_source(tmp_path / name), separator=separator, keep_errors=True)
    (bad,) = (row.value for row in rows if isinstance(row.value, InputError))
    assert str(bad).startswith(f"{tmp_path / name}:{line}: not UTF-8")


def test_json_that_is_nested_too_deeply_is_one_line(tmp_path):
    deep = "[" * 100_000
    for name, text in (("d.json", deep), ("d.jsonl", deep), ("d.csv", f"prompt,tools\na,{deep}\n")):
        assert "\n" not in refused(write(tmp_path / name, *text.splitlines()))


def test_broken_gzip(tmp_path):
    path = tmp_path / "p.jsonl.gz"
    path.write_bytes(b"plain")
    assert "p.jsonl.gz:1: broken gzip data" in refused(path)
    path.write_bytes(gzip.compress(os.urandom(9000))[:500])
    assert re.search(r"p.jsonl.gz:\d+: (broken gzip|not UTF-8|not valid JSON)", refused(path))


def test_broken_json_list_and_parquet(tmp_path):
    assert "p.json:2: not valid JSON" in refused(write(tmp_path / "p.json", "[", "{]"))
    assert "p.json:1: holds an object" in refused(write(tmp_path / "p.json", "{}"))
    assert "p.json: row 2: " in refused(write(tmp_path / "p.json", '[{"prompt": "A"}, 3]'))
    assert "not readable as Parquet" in refused(write(tmp_path / "p.parquet", "x"))


def test_a_dataset_that_cannot_be_loaded(monkeypatch):
    def fail(*names, split):
        raise ConnectionError("no route\nto host")

    monkeypatch.setitem(sys.modules, "datasets", types.SimpleNamespace(load_dataset=fail))
    message = refused("someone/things")
    assert message.startswith("someone/things: neither a file nor a dataset that can be loaded")
    assert "ConnectionError: no route" in message


# ------------------------------------------------------------------------------------- real data


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name, rows", [("helpful-base", 1885), ("harmless-base", 1885)])
def test_every_hh_row_becomes_a_prompt(name, rows):
    prompts = read_prompts(DATA / f"hh-rlhf/dev/{name}.jsonl.gz")
    assert len(prompts) == rows
    whole = 0
    for prompt in prompts:
        assert not isinstance(prompt.content, str)
        chosen = prompt.fields["chosen"].rsplit("\n\nAssistant:", 1)[0]
        whole += " ".join(render(prompt, ToyTokenizer(["end"]), "hh").split()) == " ".join(
            f"{chosen} Assistant:".split()
        )
    assert whole > 0.98 * rows  # the others part before their last answer


@pytest.mark.slow
@needs_data
def test_tinystories_openings():
    prompts = read_prompts(
        DATA / "tinystories/train.txt.gz", separator="<|endoftext|>", first_words=8
    )
    assert len(prompts) == 11361
    assert all(len(str(prompt.content).split()) == 8 for prompt in prompts)
    assert prompts[0].content == "Once upon a time, there was a unique"


@needs_data
def test_gsm8k_questions_keep_their_answers():
    prompts = read_prompts(DATA / "gsm8k/train.jsonl.gz", column="question", limit=50)
    assert len(prompts) == 50
    assert all("####" in prompt.fields["answer"] for prompt in prompts)
