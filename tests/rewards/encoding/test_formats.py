"""What a reward model reads: to the letter, to the BOS token, and never without the response."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_rewards as tiny

from rewards.encoding.bos import with_bos
from rewards.encoding.encoder import Encoder
from rewards.encoding.formats import render
from rewards.types import RewardError
from rollout.types import Completion, InputError, Prompt, conversation

BOS = tiny.BOS_ID


def encoder(format: Any = "chat", bos: Any = "single", *, made=None, **settings):
    return Encoder(made or tiny.tokenizer(), format=format, bos=bos, vocabulary=259, **settings)


def ids_of(text):
    return tiny.tokenizer()(text, add_special_tokens=False)["input_ids"]


def test_hh_text_has_no_separator_unless_asked_for():
    turns = tiny.chat("U1", "A1", "U2", "A2")
    text = "###Human: U1###Assistant: A1###Human: U2###Assistant: A2"
    assert render(turns, "hh_hash", None) == text
    assert render(turns, "hh", None) == text, "its old name"
    assert render(turns, "hh", None, separator=" ") == text.replace("1##", "1 ##").replace(
        "2##", "2 ##"
    )


def test_hh_plain_text_is_replaced_literally():
    plain = "\n\nHuman: U1\n\nAssistant: A1\n\nHuman: U2\n\nAssistant: A2"
    replaced = "###Human: U1###Assistant: A1###Human: U2###Assistant: A2"
    assert render(plain, "hh", None) == replaced
    prompt = Prompt("p", "\n\nHuman: U1\n\nAssistant: A1\n\nHuman: U2\n\nAssistant:")
    assert render(conversation(prompt, Completion(" A2")), "hh", None) == replaced
    assert render(conversation(prompt, Completion("A2")), "hh", None) == replaced
    # the marker inside an ordinary question is content, not a dialogue
    asked = conversation(Prompt("p", "who says \n\nHuman: here?"), Completion("A"))
    assert render(asked, "hh", None) == "###Human: who says \n\nHuman: here?###Assistant: A"


def test_plain_concatenates():
    assert render(tiny.chat("Once upon", " a time"), "plain", None) == "Once upon a time"
    assert render("as it stands", "plain", None) == "as it stands"


def test_chat_uses_the_template_without_a_generation_prompt():
    text = render(tiny.chat("U", " A "), "chat", tiny.tokenizer())
    assert text == "<s>[user]U</s>[assistant]A</s>"


def test_a_template_that_prints_the_date_is_pinned():
    undated = tiny.DATED_TEMPLATE.replace("not date_string is defined", "true")
    for template in (tiny.DATED_TEMPLATE, undated):
        made = tiny.tokenizer(chat_template=template)
        assert "Today Date: 26 Jul 2024\n" in render(tiny.chat("U", "A"), "chat", made)


@pytest.mark.parametrize(
    ("messages", "format"),
    [
        ([], "plain"),
        (tiny.chat("no answer"), "plain"),
        ([{"role": "system", "content": "s"}, *tiny.chat("U", "A")], "hh"),
        ("a text", "chat"),
    ],
)
def test_conversations_that_do_not_fit_are_refused_by_name(messages, format):
    with pytest.raises(InputError, match="prompt 'p7'"):
        encoder(format).encode([messages], ["prompt 'p7'"])


def test_a_template_that_refuses_is_the_input_s_fault():
    made = tiny.tokenizer(chat_template="{{ raise_exception('roles must alternate') }}")
    with pytest.raises(InputError, match="roles must alternate"):
        encoder(made=made).encode([tiny.chat("U", "A")], ["prompt 'p'"])


@pytest.mark.parametrize("adds_bos", [True, False])
@pytest.mark.parametrize(("bos", "count"), [("none", 0), ("single", 1), ("double", 2)])
@pytest.mark.parametrize(
    ("format", "text"),
    [
        ("chat", "[user]U</s>[assistant]A</s>"),  # the template renders a BOS of its own
        ("hh_hash", "###Human: U###Assistant: A"),
        ("hh", "###Human: U###Assistant: A"),
        ("plain", "UA"),
    ],
)
def test_bos_is_exact_to_the_token(format, text, bos, count, adds_bos):
    made = tiny.tokenizer(adds_bos=adds_bos)
    (ids,) = encoder(format, bos, made=made).encode([tiny.chat("U", "A")], ["c"])
    assert ids == [BOS] * count + ids_of(text)


def test_double_bos_is_what_the_card_s_two_steps_give():
    made = tiny.tokenizer()
    turns = tiny.chat("U", "A")
    card = made(made.apply_chat_template(turns, tokenize=False))["input_ids"]
    assert card[:3] != [BOS] * 3 and card[:2] == [BOS] * 2
    assert encoder(bos="double").encode([turns], ["c"]) == [card]


def test_bos_inside_the_text_stays():
    assert with_bos([BOS, BOS, BOS, 5, BOS, 6], BOS, "single") == [BOS, 5, BOS, 6]
    assert with_bos([5, 6], None, "none") == [5, 6]


def test_a_bos_that_the_tokenizer_lacks_is_refused():
    made = tiny.tokenizer()
    made.bos_token = None
    with pytest.raises(InputError, match="no BOS"):
        encoder("plain", made=made)
    assert encoder("plain", "none", made=made).encode(["ab"], ["c"]) == [ids_of("ab")]


def test_chat_needs_a_template():
    with pytest.raises(InputError, match="no chat template"):
        encoder(made=tiny.tokenizer(chat_template=None))


def test_left_cut_keeps_bos_and_the_response():
    one = encoder("hh", "double", max_length=12)
    (ids,) = one.encode([tiny.chat("a long question", "answer")], ["c"])
    assert ids == [BOS, BOS, *ids_of("###Human: a long question###Assistant: answer")[-10:]]
    assert one.truncated == 1


def test_right_cut_keeps_the_start_and_counts(caplog):
    one = encoder("plain", max_length=6, truncation_side="right")
    rows = one.encode([tiny.chat("abc", "defgh"), tiny.chat("a", "b")], ["0", "1"])
    assert rows == [[BOS, *ids_of("abcde")], [BOS, *ids_of("ab")]]
    assert one.truncated == 1 and "1 of 2 conversations were cut" in caplog.text
    one.encode([tiny.chat("abc", "defgh")], ["0"])
    assert one.truncated == 2


@pytest.mark.parametrize("format", ["chat", "plain", "hh"])
def test_a_response_that_would_be_cut_away_is_an_error(format):
    question = "q" * 60
    one = encoder(format, max_length=40, truncation_side="right")
    with pytest.raises(RewardError, match=r"prompt 'p3'.*max_length.*truncation_side=\"left\""):
        one.encode([tiny.chat(question, "response")], ["prompt 'p3'"])
    assert one.truncated == 0
    kept = encoder(format, max_length=40).encode([tiny.chat(question, "response")], ["c"])
    assert len(kept[0]) == 40


def test_the_boundary_of_losing_the_response():
    turns, whole = tiny.chat("abc", "de"), "abcde"
    for length in range(2, 6):
        one = encoder("plain", max_length=length, truncation_side="right")
        if length <= 4:  # BOS and abc
            with pytest.raises(RewardError):
                one.encode([turns], ["c"])
        else:
            assert one.encode([turns], ["c"]) == [[BOS, *ids_of(whole[: length - 1])]]
    # the template's closing token alone is not a response
    with pytest.raises(RewardError):
        encoder("chat", max_length=2).encode([turns], ["c"])
    assert encoder("chat", max_length=3).encode([turns], ["c"]) == [[BOS, *ids_of("e</s>")]]


def test_nothing_to_score_is_an_error():
    with pytest.raises(RewardError, match="no tokens"):
        encoder("plain", "none").encode([""], ["c"])
