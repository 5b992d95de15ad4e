"""Every form of preference data, by rows in the published shape, and by the real data at hand."""

from __future__ import annotations

import gzip
import json
from itertools import combinations, pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wording import says

from rewards.data.dialogue import messages, prompt_words, same_prompt_key
from rewards.data.formats import FORMATS, columns_of, find_format, recognise
from rewards.data.pair import Pair
from rewards.data.record import Options, Record, Refusal
from rewards.data.split import split_last, split_pairs
from rollout.types import InputError, Message

U, A = "user", "assistant"


def turns(*texts: str) -> list[dict[str, str]]:
    """User and assistant in turn."""
    return [{"role": (U, A)[at % 2], "content": text} for at, text in enumerate(texts)]


def record(columns: dict[str, Any], id: str = "r") -> Record:
    return Record(id, "f.jsonl:3", "src", columns)


def outcomes(columns: dict[str, Any], **options: Any) -> list[Pair | Refusal]:
    """What becomes of a row whose format is recognised by its columns."""
    name, _ = recognise(columns, "f.jsonl:3")
    format = find_format(name)
    if format.pairs_of_many:
        return format.pairs_of_many([record(columns)], Options(**options))
    assert format.pairs
    return format.pairs(record(columns_of(name, columns, "f.jsonl:3")), Options(**options))


def pairs(columns: dict[str, Any], **options: Any) -> list[Pair]:
    found = outcomes(columns, **options)
    assert all(isinstance(one, Pair) for one in found), found
    return [one for one in found if isinstance(one, Pair)]


def one(columns: dict[str, Any], **options: Any) -> Pair:
    (pair,) = pairs(columns, **options)
    return pair


def reasons(columns: dict[str, Any], **options: Any) -> list[str]:
    return [one.reason for one in outcomes(columns, **options) if isinstance(one, Refusal)]


def said(pair: Pair) -> tuple[list[str], str, str]:
    return [m["content"] for m in pair.prompt], pair.chosen, pair.rejected


def refused(columns: dict[str, Any]) -> str:
    with pytest.raises(InputError) as caught:
        outcomes(columns)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("f.jsonl:3: ")
    return str(caught.value)


# ------------------------------------------------------------------ rows that name their sides

HH = "\n\nHuman: Hi\n\nAssistant: Hello.\n\nHuman: How?\n\nAssistant:"


def test_hh_dialogues():
    pair = one({"chosen": HH + " Well.", "rejected": HH + " Bad.\n\n"})
    assert said(pair) == (["Hi", "Hello.", "How?"], "Well.", "Bad.")
    assert [m["role"] for m in pair.prompt] == [U, A, U]


def test_hh_answers_beside_their_dialogue():
    # Dahoas/full-hh-rlhf
    row = {"prompt": HH, "response": " Well.", "chosen": " Well.", "rejected": " Bad."}
    assert said(one(row)) == (["Hi", "Hello.", "How?"], "Well.", "Bad.")


def test_hh_dialogues_that_part_early():
    part = "\n\nHuman: Hi\n\nAssistant: No.\n\nHuman: Why?\n\nAssistant: Because."
    row = {"chosen": HH + " Well.", "rejected": part}
    assert reasons(row) == ["conversations differ before the last response"]
    assert said(one(row, diverging_prompts="truncate")) == (["Hi"], "Hello.", "No.")


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (" Same.", " Same. ", "identical sides"),
        (" Well.", "", "empty reply"),
        (" A\n\nHuman: B", " C\n\nHuman: B", "last message not the assistant's"),
    ],
)
def test_hh_rows_that_make_no_pair(chosen, rejected, reason):
    assert reasons({"chosen": HH + chosen, "rejected": HH + rejected}) == [reason]


def test_hh_dialogues_of_different_questions():
    first, second = "\n\nHuman: A\n\nAssistant: x", "\n\nHuman: B\n\nAssistant: y"
    assert reasons({"chosen": first, "rejected": second}) == ["no shared prompt"]


def test_messages_with_scores():
    # hendrydong/preference_700K
    row = {
        "chosen": turns("Q", "good"),
        "rejected": turns("Q", "bad"),
        "chosen_score": 8.5,
        "rejected_score": 7.0,
    }
    assert said(one(row)) == (["Q"], "good", "bad")
    assert one(row).margin == 1.5
    assert reasons(row | {"rejected_score": 8.5}) == ["tie"]
    assert one(row | {"rejected_score": 8.5}, ties="keep").margin == 0
    assert reasons(row | {"rejected_score": 9.0}) == ["scores contradict the sides"]
    assert one(row | {"rejected_score": float("nan")}).margin is None


def test_binarized_ultrafeedback():
    row = {
        "prompt": "Q",
        "prompt_id": "0f",
        "chosen": turns("Q", "good"),
        "rejected": turns("Q", "bad"),
        "messages": turns("Q", "good"),
        "score_chosen": 8.0,
        "score_rejected": 4.0,
    }
    assert said(one(row)) == (["Q"], "good", "bad")
    assert one(row).margin == 4 and one(row).fields == {"prompt_id": "0f"}
    argilla = {k: row[k] for k in ("prompt", "chosen", "rejected")}
    argilla |= {"chosen-rating": 5.0, "rejected-rating": 2.25, "chosen-model": "m", "source": "s"}
    assert one(argilla).margin == 2.75


def test_answers_alone_as_messages():
    row = {
        "prompt": turns("Q"),
        "chosen": [{"role": A, "content": "good"}],
        "rejected": [{"role": A, "content": "bad"}],
    }
    assert said(one(row)) == (["Q"], "good", "bad")
    del row["prompt"]
    assert reasons(row) == ["no shared prompt"]


@pytest.mark.parametrize(
    ("chosen", "rejected", "reason"),
    [
        (turns("Q", "a", "R"), turns("Q", "b", "R"), "last message not the assistant's"),
        (turns("Q", "a"), turns("R", "b"), "no shared prompt"),
        (
            turns("Q", "a", "R", "b"),
            turns("Q", "a"),
            "conversations differ before the last response",
        ),
        ([], turns("Q", "b"), "empty conversation"),
        (turns("Q", "a", "R", "b"), turns("Q", "c", "R", "b"), "conversations differ before"),
        (turns("  ", "a"), turns("  ", "b"), "empty prompt"),
    ],
)
def test_message_rows_that_make_no_pair(chosen, rejected, reason):
    (found,) = reasons({"chosen": chosen, "rejected": rejected})
    assert found.startswith(reason)


def test_a_system_prompt_alone_and_two_answers_in_a_row():
    system = {"role": "system", "content": "S"}
    row = {"chosen": [system, *turns("", "a")[1:]], "rejected": [system, *turns("", "b")[1:]]}
    assert reasons(row) == ["no shared prompt"]
    twice = [*turns("Q", "a"), {"role": A, "content": "b"}]
    other = [*turns("Q", "a"), {"role": A, "content": "c"}]
    assert reasons({"chosen": twice, "rejected": other}) == ["prompt does not end with the user"]
    # a system message before the question stays
    row = {"chosen": [system, *turns("Q", "a")], "rejected": [system, *turns("Q", "b")]}
    assert said(one(row))[0] == ["S", "Q"]


def test_dialogues_must_begin_with_messages_given_as_the_prompt():
    row = {"prompt": turns("X"), "chosen": turns("Q", "a"), "rejected": turns("Q", "b")}
    assert reasons(row) == ["dialogue does not begin with the prompt"]


def test_texts_and_labels_of_both_sides():
    labels = {"chosen": {"wit": 0.5, "tact": None}, "rejected": {"wit": 0.1}}
    row = {"prompt": "Q", "chosen": " a", "rejected": "b", "labels": labels}
    assert said(one(row)) == (["Q"], " a", "b")
    assert one(row).labels == {"chosen": {"wit": 0.5}, "rejected": {"wit": 0.1}}


@pytest.mark.parametrize(
    "columns",
    [
        {"prompt": "Q", "chosen": "good", "rejected": "bad"},
        {"instruction": "Q", "chosen": "good", "rejected": "bad"},
        {"chosen": turns("Q", "good"), "rejected": turns("Q", "bad")},
        {"chosen": HH + " good", "rejected": HH + " bad"},
        {"prompt": HH, "chosen": "good", "rejected": "bad"},
    ],
    ids=["pair", "alpaca", "messages", "hh", "hh answers"],
)
def test_a_margin_beside_named_sides(columns):
    assert one(columns | {"margin": 2}).margin == 2 and one(columns | {"margin": 0}).margin == 0
    assert one(columns | {"margin": 2.5, "extra": 1}).fields == {"extra": 1}
    assert one(columns | {"margin": None}).margin is None
    assert reasons(columns | {"margin": -0.5}) == ["margin contradicts the sides"]
    for wrong in (float("nan"), float("inf"), "large", True, [1]):
        assert says(refused(columns | {"margin": wrong}), f"'margin' is {wrong!r}")


def test_a_margin_stands_before_the_difference_of_scores():
    row = {"prompt": "Q", "chosen": "good", "rejected": "bad", "margin": 1}
    row |= {"score_chosen": 8.0, "score_rejected": 4.0}
    assert one(row).margin == 1 and one(row | {"margin": None}).margin == 4
    assert reasons(row | {"score_rejected": 9.0}) == ["scores contradict the sides"]


def test_alpaca():
    row = {"instruction": "Do", "input": "this", "output": "o", "chosen": "a", "rejected": "b"}
    assert said(one(row)) == (["Do\nthis"], "a", "b")
    assert said(one(row | {"input": ""}))[0] == ["Do"]


# -------------------------------------------------------------------------- two answers, a verdict


def unified(first: float, second: float, source: str = "Anthropic/hh-rlhf") -> dict[str, Any]:
    return {
        "id": "x_0",
        "conv_A": turns(" post ", "a"),
        "conv_B": turns(" post ", "b"),
        "conv_A_rating": first,
        "conv_B_rating": second,
        "num_turns": 1,
        "source": source,
    }


def test_unified_feedback():
    assert said(one(unified(1.0, 0.0))) == ([" post "], "a", "b")
    assert said(one(unified(2.0, 4.5))) == ([" post "], "b", "a")
    assert one(unified(2.0, 4.5)).margin == 2.5
    assert one(unified(1.0, 0.0)).source == "hh-rlhf"
    assert one(unified(1.0, 0.0, "flan_v2_niv2")).source == "ultrafeedback"
    assert one(unified(1.0, 0.0, "my/own")).source == "my/own"
    assert reasons(unified(1.0, 1.0)) == ["tie"]
    assert reasons(unified(1.0, float("nan"))) == ["no rating"]


def test_unified_feedback_names_eight_sources():
    from rewards.data.converters.chosen_rejected import UNIFIED_SOURCES

    assert len(set(UNIFIED_SOURCES.values())) == 8


def test_unified_feedback_prefixes_posts_to_summarise():
    row = unified(0, 1, "openai/summarize_from_feedback(comparisons)")
    asked = "Generate one-sentence summary for the following post: post"
    assert said(one(row)) == ([asked], "b", "a")
    assert said(one(row, prefix="TL;DR: "))[0] == ["TL;DR: post"]


def test_summarize_from_feedback():
    row = {
        "info": {"id": "t3", "post": "p ", "title": "t", "subreddit": "r", "article": None},
        "summaries": [{"text": "a", "policy": "sup", "note": None}, {"text": "b", "policy": "ref"}],
        "choice": 1,
        "worker": "w",
        "batch": "b",
        "split": "train",
        "extra": {"confidence": None},
    }
    asked = "Generate one-sentence summary for the following post: p"
    assert said(one(row)) == ([asked], "b", "a")
    assert one(row).fields["worker"] == "w"
    assert "choice" in refused(row | {"choice": 2})
    assert reasons(row | {"info": {"post": None}}) == ["empty prompt"]


def test_webgpt_comparisons():
    row = {
        "question": {"dataset": "eli5", "id": "1", "full_text": "Why?"},
        "quotes_0": {"title": [], "extract": []},
        "answer_0": "a",
        "tokens_0": {"prefix": [], "completion": []},
        "score_0": -0.25,
        "quotes_1": {"title": [], "extract": []},
        "answer_1": "b",
        "tokens_1": {"prefix": [], "completion": []},
        "score_1": 0.25,
    }
    assert said(one(row)) == (["Why?"], "b", "a")
    assert one(row).margin == 0.5
    assert reasons(row | {"score_0": 0.0, "score_1": 0.0}) == ["tie"]


def test_chatbot_arena():
    row = {
        "question_id": "q",
        "model_a": "m",
        "model_b": "n",
        "winner": "model_b",
        "judge": "arena_user_1",
        "conversation_a": turns("Q", "a"),
        "conversation_b": turns("Q", "b"),
        "turn": 1,
        "anony": True,
        "language": "English",
    }
    assert said(one(row)) == (["Q"], "b", "a")
    assert reasons(row | {"winner": "tie"}) == reasons(row | {"winner": "tie (bothbad)"}) == ["tie"]
    assert "winner" in refused(row | {"winner": "A"})
    longer = row | {
        "conversation_a": turns("Q", "a", "R", "c"),
        "conversation_b": turns("Q", "b", "R", "d"),
    }
    assert reasons(longer) == ["conversations differ before the last response"]
    assert said(one(longer, diverging_prompts="truncate")) == (["Q"], "b", "a")


def test_judged_pairs():
    llmbar = {"input": "Q", "output_1": "a", "output_2": "b", "label": 2}
    assert said(one(llmbar)) == (["Q"], "b", "a")
    assert says(refused(llmbar | {"label": 0}), "'label' is 0 1, 2")
    judge = {"pair_id": "p", "question": "Q", "response_A": "a", "response_B": "b", "label": "A>B"}
    assert said(one(judge)) == (["Q"], "a", "b")
    people = {"prompt": "Q", "completion_a": "a", "completion_b": "b", "preference": "b-is-better"}
    assert said(one(people)) == (["Q"], "b", "a") and one(people).margin == 2
    assert reasons(people | {"preference": "tie"}) == ["tie"]


# ----------------------------------------------------------------------------- several answers

NECTAR = {
    "prompt": "\n\nHuman: Q\n\nAssistant: ",
    "answers": [
        {"answer": "best", "model": "gpt-4", "rank": 1.0},
        {"answer": "mid", "model": "llama", "rank": 2.0},
        {"answer": "also mid", "model": "mistral", "rank": 2.0},
        {"answer": "worst", "model": "anthropic", "rank": 4.0},
    ],
    "turns": 1,
    "num_responses": 4,
    "source": ["lmsys"],
    "good_natured": True,
}


def test_nectar():
    found = outcomes(NECTAR)
    made = [one for one in found if isinstance(one, Pair)]
    assert [(p.chosen, p.rejected, p.margin) for p in made] == [
        ("best", "mid", 1),
        ("best", "also mid", 1),
        ("best", "worst", 3),
        ("mid", "worst", 2),
        ("also mid", "worst", 2),
    ]
    assert reasons(NECTAR) == ["tie"]
    assert len({p.id for p in made}) == 5
    assert all([m["content"] for m in p.prompt] == ["Q"] for p in made)


def test_which_pairs_of_several():
    worst = one(NECTAR, pairs="best_vs_worst")
    assert (worst.chosen, worst.rejected) == ("best", "worst")
    adjacent = [p for p in outcomes(NECTAR, pairs="adjacent") if isinstance(p, Pair)]
    assert [(p.chosen, p.rejected) for p in adjacent] == [("best", "mid"), ("also mid", "worst")]
    drawn = {one(NECTAR, pairs="best_vs_random", seed=seed).rejected for seed in range(30)}
    assert drawn == {"mid", "also mid", "worst"}
    assert one(NECTAR, pairs="best_vs_random", seed=7) == one(
        NECTAR, pairs="best_vs_random", seed=7
    )


@given(st.lists(st.integers(0, 3), min_size=2, max_size=6))
def test_all_pairs_are_all_pairs(scores):
    texts = [f"answer {at}" for at in range(len(scores))]
    row = {"prompt": "Q", "responses": texts, "scores": scores}
    expected = {
        (texts[i], texts[j]) if scores[i] > scores[j] else (texts[j], texts[i])
        for i, j in combinations(range(len(scores)), 2)
        if scores[i] != scores[j]
    }
    found = outcomes(row)
    assert {(p.chosen, p.rejected) for p in found if isinstance(p, Pair)} == expected
    assert len(found) == len(scores) * (len(scores) - 1) // 2


def test_ranked_rows():
    row = {"prompt": turns("Q"), "responses": ["a", "b", "c"], "ranks": [2, None, 1]}
    found = outcomes(row)
    assert [said(p) for p in found if isinstance(p, Pair)] == [(["Q"], "c", "a")]
    assert reasons(row) == ["no rating"]
    assert "2 ranks beside 3 responses" in refused(row | {"ranks": [1, 2]})
    assert reasons({"prompt": "Q", "responses": ["a"], "scores": [1]}) == [
        "fewer than two rated answers"
    ]


def completion(text: str, overall: float, *ratings: str) -> dict[str, Any]:
    aspects = ("instruction_following", "honesty", "truthfulness", "helpfulness")
    return {
        "annotations": {
            aspect: {"Rating": rating, "Rationale": "…"}
            for aspect, rating in zip(aspects, ratings, strict=True)
        },
        "custom_system_prompt": "…",
        "model": "m",
        "principle": "helpfulness",
        "response": text,
        "critique": "…",
        "overall_score": overall,
        "fine-grained_score": 4.0,
    }


ULTRA = {
    "source": "evol_instruct",
    "instruction": "Q",
    "models": ["m", "n"],
    "completions": [
        completion("a", 6.0, "3", "N/A", "5", "4"),
        completion("b", 8.5, "4", "5", "5", "1"),
    ],
    "correct_answers": ["None"],
    "incorrect_answers": ["None"],
}


def test_ultrafeedback():
    pair = one(ULTRA)
    assert said(pair) == (["Q"], "b", "a") and pair.margin == 2.5
    assert pair.fields == {"origin": "evol_instruct"}
    # the middle of step r of n: (r - 1/2) / n
    assert pair.labels["rejected"] == {
        "ultrafeedback-overall_score": pytest.approx(0.55),
        "ultrafeedback-instruction_following": pytest.approx(0.5),
        "ultrafeedback-truthfulness": pytest.approx(0.9),
        "ultrafeedback-helpfulness": pytest.approx(0.7),
    }
    assert pair.labels["chosen"]["ultrafeedback-honesty"] == pytest.approx(0.9)
    assert said(one(ULTRA, by="helpfulness"))[1:] == ("a", "b")
    assert reasons(ULTRA, by="fine-grained_score") == ["tie"]
    assert reasons(ULTRA | {"completions": []}) == ["fewer than two rated answers"]
    with pytest.raises(InputError, match="by: 'wit'"):
        outcomes(ULTRA, by="wit")


def test_ultrafeedback_single_responses():
    rate = find_format("ultrafeedback").rated
    assert rate
    first, second = rate(record(ULTRA))
    assert not isinstance(first, Refusal) and not isinstance(second, Refusal)
    assert [m["content"] for m in first.conversation] == ["Q", "a"]
    assert len(first.labels) == 4 and len(second.labels) == 5
    assert first.id != second.id


def helpsteer(response: str, *ratings: int) -> Record:
    aspects = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    rated = dict(zip(aspects, ratings, strict=True))
    return record({"prompt": "Q", "response": response, **rated}, id=response)


def test_helpsteer():
    convert = find_format("helpsteer").pairs_of_many
    assert convert
    rows = [helpsteer("a", 3, 0, 4, 2, 2), helpsteer("b", 4, 4, 4, 2, 1)]
    (pair,) = convert(rows, Options())
    assert isinstance(pair, Pair) and said(pair) == (["Q"], "b", "a") and pair.margin == 1
    # ArmoRM's card: raw = label * 5 - 0.5
    for key, raw in zip(pair.labels["rejected"].values(), (3, 0, 4, 2, 2), strict=True):
        assert key * 5 - 0.5 == pytest.approx(raw)
    (pair,) = convert(rows, Options(by="helpfulness+correctness"))
    assert isinstance(pair, Pair) and pair.margin == 2.5
    assert convert(rows, Options(by="coherence")) == [Refusal("tie")]
    assert convert(rows[:1], Options()) == []


def test_helpsteer2_writes_turns_into_its_prompt():
    convert = find_format("helpsteer").pairs_of_many
    text = "Q\n<extra_id_1>Assistant\nA\n<extra_id_1>User\nR"
    rows = [helpsteer("a", 3, 0, 4, 2, 2), helpsteer("b", 4, 4, 4, 2, 1)]
    rows = [Record(r.id, r.where, r.source, {**r.columns, "prompt": text}) for r in rows]
    assert convert
    (pair,) = convert(rows, Options())
    assert isinstance(pair, Pair)
    assert [(m["role"], m["content"]) for m in pair.prompt] == [(U, "Q"), (A, "A"), (U, "R")]


def test_rated_rows():
    rate = find_format("rated").rated
    assert rate
    (one,) = rate(record({"messages": turns("Q", "a"), "labels": {"wit": 0.5, "tact": None}}))
    assert not isinstance(one, Refusal) and one.labels == {"wit": 0.5}
    # RLHFlow/ArmoRM-Multi-Objective-Data: one column of each attribute
    row = {"prompt": "Q", "response": "a", "beavertails-is_safe": True, "code-style": None, "n": 3}
    (one,) = rate(record(row))
    assert not isinstance(one, Refusal) and one.labels == {"beavertails-is_safe": 1.0}
    assert rate(record({"prompt": "Q", "response": "a"})) == [Refusal("no rating")]
    assert rate(record({"prompt": "Q", "response": " ", "labels": {"a": 1}})) == [
        Refusal("empty reply")
    ]


# ------------------------------------------------------------------------------------- trees


def node(id: str, role: str, text: str, *replies: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"message_id": id, "role": role, "text": text, "replies": list(replies), **more}


TREE = node(
    "1",
    "prompter",
    "Q",
    node("2", A, "second", rank=1, deleted=False),
    node(
        "3",
        A,
        "first",
        node("5", "prompter", "R", node("6", A, "x", rank=1), node("7", A, "y", rank=0)),
        rank=0,
    ),
    node("4", A, "third", rank=2),
)


def test_oasst_tree():
    row = {"message_tree_id": "1", "tree_state": "ready_for_export", "prompt": TREE}
    made = pairs(row)
    assert [said(p) for p in made] == [
        (["Q"], "first", "second"),
        (["Q"], "second", "third"),
        (["Q"], "first", "third"),
        (["Q", "first", "R"], "y", "x"),
    ]
    assert [p.margin for p in made] == [1, 1, 2, 1]
    assert len({p.id for p in made}) == 4
    adjacent = pairs(row, pairs="adjacent")
    assert [(p.chosen, p.rejected) for p in adjacent] == [
        ("first", "second"),
        ("second", "third"),
        ("y", "x"),
    ]


def test_oasst_replies_without_rank_or_deleted():
    replies = [node("2", A, "a", rank=0), node("3", A, "b"), node("4", A, "c", rank=1)]
    tree = node("1", "prompter", "Q", *replies, node("5", A, "d", rank=2, deleted=True))
    row = {"message_tree_id": "1", "prompt": tree}
    assert [p.chosen for p in outcomes(row) if isinstance(p, Pair)] == ["a"]
    assert reasons(row) == ["deleted reply", "no rating"]


def flat(node: dict[str, Any], parent: str | None = None) -> list[dict[str, Any]]:
    own = {key: value for key, value in node.items() if key != "replies"}
    rows = [{"rank": None, **own, "parent_id": parent, "message_tree_id": "1"}]
    for reply in node["replies"]:
        rows += flat(reply, node["message_id"])
    return rows


def test_flat_oasst_rows_are_the_same_tree():
    convert = find_format("oasst_flat").pairs_of_many
    assert convert
    rows = [record(row) for row in flat(TREE)]
    assert recognise(dict(rows[0].columns), "")[0] == "oasst_flat"
    found = convert(rows, Options())
    tree = pairs({"message_tree_id": "1", "prompt": TREE})
    assert [said(p) for p in found if isinstance(p, Pair)] == [said(p) for p in tree]
    with pytest.raises(InputError, match="parents first"):
        convert(rows[1:], Options())


# ------------------------------------------------------------------------------ mistaken rows


@pytest.mark.parametrize(
    ("row", "word"),
    [
        ({"prompt": "Q", "chosen": "a", "rejected": "\ud800"}, "surrogate"),
        (
            {"chosen": turns("Q", "a"), "rejected": [{"role": "narrator", "content": "b"}]},
            "'narrator'",
        ),
        (
            {"chosen": turns("Q", "a"), "rejected": [{"role": A}]},
            "rejected' message 1 role content",
        ),
        ({"chosen": turns("Q", "a"), "rejected": [{"role": A, "content": None}]}, "null"),
        (unified(1, 0) | {"conv_A": "text"}, "Human:"),
        (unified(1, 0) | {"conv_A_rating": "high"}, "a number is expected"),
        (unified(1, 0) | {"source": None}, "'source' is null"),
        (ULTRA | {"completions": ["a"]}, "an object is expected"),
        (NECTAR | {"answers": {}}, "a list is expected"),
        ({"message_tree_id": "1", "prompt": {"text": "Q", "role": "bot"}}, "'bot'"),
    ],
)
def test_rows_of_a_wrong_type_name_their_place(row, word):
    assert says(refused(row), word)


def test_a_later_row_without_the_column():
    convert = find_format("pair").pairs
    assert convert
    with pytest.raises(InputError, match="no column 'rejected'"):
        convert(record({"prompt": "Q", "chosen": "a"}), Options())


def test_unknown_columns_and_names():
    with pytest.raises(InputError, match=r"no format of pairs has the columns a, b"):
        recognise({"a": 1, "b": 2}, "f:1")
    with pytest.raises(InputError, match="format: 'json' is not known"):
        find_format("json")


# ------------------------------------------------------------------------------ the real data


def rows_of(path: Path) -> list[Any]:
    text = (
        gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    ).decode()
    if text.lstrip().startswith("["):
        return json.loads(text)
    return [json.loads(line) for line in text.splitlines()]


def converted(rows: list[Any]) -> list[Pair | Refusal]:
    name, _ = recognise(rows[0], "f:1")
    convert = find_format(name).pairs
    assert convert
    options = Options()
    return [
        one
        for at, row in enumerate(rows)
        for one in convert(Record(f"r{at}", f"f:{at + 1}", "s", columns_of(name, row, "")), options)
    ]


HH_FILES = ("helpful-base", "harmless-base", "helpful-rejection-sampled")


@pytest.mark.slow
@pytest.mark.parametrize("name", HH_FILES)
def test_real_hh(data, name):
    # by plain string search: what stands before the last "\n\nAssistant:" of both
    rows = rows_of(data / "hh-rlhf" / "dev" / f"{name}.jsonl.gz")
    mark = "\n\nAssistant:"
    expected, made_of = [], 0
    for row in rows:
        (before, _, good), (other, _, bad) = (
            row[k].rpartition(mark) for k in ("chosen", "rejected")
        )
        fine = before == other and "\n\nHuman:" not in good + bad
        if fine and good.strip() and bad.strip() and good.strip() != bad.strip():
            expected.append((good.strip(), bad.strip()))
            made_of += before.count("\n\nHuman:")
    made = [one for one in converted(rows) if isinstance(one, Pair)]
    assert [(p.chosen, p.rejected) for p in made] == expected
    assert sum(m["role"] == U for p in made for m in p.prompt) == made_of
    assert len(made) > 0.98 * len(rows)


@pytest.mark.parametrize("name", HH_FILES)
def test_hh_text_is_read_as_prompts_read_it(data, name):
    from rollout.data.messages import parse_hh

    for row in rows_of(data / "hh-rlhf" / "dev" / f"{name}.jsonl.gz")[:400]:
        text = row["chosen"]
        assert messages(record({}), text, "chosen") == parse_hh(text, "f:1", "chosen")


def test_real_trees(data):
    rows = rows_of(data / "oasst" / "en_100_tree.jsonl.gz")

    def count(node: dict[str, Any]) -> int:
        ranked = [r for r in node["replies"] if r.get("rank") is not None]
        values = [r["rank"] for r in ranked if node["role"] == "prompter"]
        texts = [r["text"].strip() for r in ranked]
        here = sum(
            values[i] != values[j] and texts[i] != texts[j]
            for i, j in combinations(range(len(values)), 2)
        )
        return here + sum(count(reply) for reply in node["replies"])

    made = [one for one in converted(rows) if isinstance(one, Pair)]
    assert len(made) == sum(count(row["prompt"]) for row in rows) > 500
    assert all(p.prompt[-1]["role"] == U and p.margin and p.margin > 0 for p in made)
    for pair in made[:50]:
        assert all(a["role"] != b["role"] for a, b in pairwise(pair.prompt))


def test_real_preference_data_of_other_forms(data):
    polite = rows_of(data / "llms-from-scratch" / "instruction-data-with-preference.json.gz")
    usable = [r for r in polite if r["chosen"].strip() != r["rejected"].strip()]
    made = [one for one in converted(polite) if isinstance(one, Pair)]
    assert [p.chosen for p in made] == [r["chosen"] for r in usable] and len(made) > 1000

    for name in ("natural", "adv_gptinst"):
        rows = rows_of(data / "llmbar" / f"{name}.json")
        made = [one for one in converted(rows) if isinstance(one, Pair)]
        assert [p.chosen for p in made] == [r[f"output_{r['label']}"] for r in rows]

    rows = rows_of(data / "judgebench" / "judgebench_gpt-4o-2024-05-13.jsonl.gz")
    made = [one for one in converted(rows) if isinstance(one, Pair)]
    assert [p.chosen for p in made] == [r[f"response_{r['label'][0]}"] for r in rows]

    rows = rows_of(data / "open-instruct-human" / "annotations_tulu1.jsonl.gz")
    refusals = [one.reason for one in converted(rows) if isinstance(one, Refusal)]
    assert refusals.count("tie") == sum(r["preference"] == "tie" for r in rows) == 376

    rows = rows_of(data / "hhh-alignment" / "hhh_alignment.jsonl")
    assert sum(isinstance(one, Pair) for one in converted(rows)) == 221


# -------------------------------------------------------------------------------------- splits


def asked(*texts: str) -> list[Pair]:
    user = [(Message(role=U, content=text),) for text in texts]
    return [Pair(f"p{at}", prompt, "a", "b") for at, prompt in enumerate(user)]


@given(
    st.lists(st.sampled_from(["One", "one!", "two", "Three three", "four", "FOUR"]), min_size=2),
    st.one_of(st.floats(0.01, 0.9), st.integers(1, 5)),
    st.integers(0, 3),
)
def test_no_prompt_is_on_both_sides_of_a_split(texts, held_out, seed):
    pairs = asked(*texts)
    try:
        split = split_pairs(pairs, held_out, seed)
    except InputError as error:
        assert "\n" not in str(error)
        return
    sides = [
        {same_prompt_key(p.prompt[0]["content"]) for p in s} for s in (split.train, split.held_out)
    ]
    assert not sides[0] & sides[1] and all(sides)
    assert sorted(p.id for p in split.train + split.held_out) == sorted(p.id for p in pairs)


def test_a_split_is_of_the_size_asked_for_and_of_its_seed():
    pairs = asked(*(f"question {at}" for at in range(200)))
    assert len(split_pairs(pairs, 0.1).held_out) == 20
    assert len(split_pairs(pairs, 7).held_out) == 7
    assert split_pairs(pairs, 0.1, seed=1) != split_pairs(pairs, 0.1)
    backwards = split_pairs(pairs[::-1], 0.1).held_out
    assert {p.id for p in backwards} == {p.id for p in split_pairs(pairs, 0.1).held_out}


def test_turns_of_one_conversation_stay_together():
    first = Message(role=U, content="Q")
    later = (first, Message(role=A, content="a"), Message(role=U, content="R"))
    pairs = [*asked("Q", "other"), Pair("later", later, "a", "b")]
    split = split_pairs(pairs, 1)
    sides = [{p.id for p in split.train}, {p.id for p in split.held_out}]
    assert any({"p0", "later"} <= side for side in sides)


def test_the_last_rows_and_what_they_share():
    split = split_last(asked("a", "b", "c", "A.", "d"), 2)
    assert [p.id for p in split.held_out] == ["p3", "p4"]
    assert split.shared == 1


@pytest.mark.parametrize("held_out", [0, -1, 1.5, 3, True])
def test_splits_that_make_no_sense(held_out):
    with pytest.raises(InputError, match="held_out"):
        split_pairs(asked("a", "b", "c"), held_out)


def test_one_prompt_cannot_be_split():
    with pytest.raises(InputError, match="one first turn"):
        split_pairs(asked("a", "A", "a!"), 1)


# --------------------------------------------------------------------------------- the same prompt


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is  this?", "what is this"),
        ("“Quote”, she said", '"quote" she said.'),
        ("ﬁne Straße", "fine STRASSE"),
        ("well-known", "well known"),
    ],
)
def test_prompts_that_are_the_same(first, second):
    assert same_prompt_key(first) == same_prompt_key(second)


@pytest.mark.parametrize(
    ("first", "second"),
    [("3 - 4", "3 * 4"), ("3 + 4", "3 / 4"), ("??", "!!"), ("I am 😀", "I am 😢"), ("ab", "a b")],
)
def test_prompts_that_are_not(first, second):
    assert same_prompt_key(first) != same_prompt_key(second)


def test_signs_written_without_spaces_are_words():
    assert prompt_words("你好，world") == ["你", "好", "world"]


def test_every_format_makes_something():
    assert all(f.pairs or f.pairs_of_many or f.rated for f in FORMATS.values())
    assert all((f.key is None) == (f.pairs_of_many is None) for f in FORMATS.values())
