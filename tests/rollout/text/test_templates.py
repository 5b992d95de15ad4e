"""Encoding prompts: the right text, one BOS, no EOS, and room for the answer."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from wording import says

from rollout.errors import InputError
from rollout.text.templates import encode_prompts, render
from rollout.types import Message, Prompt

MODEL = (
    Path(os.environ.get("RAFT_DATA", Path(__file__).parents[3].with_name("shared")))
    / "models/stories260k"
)
BOS, EOS = 1, 2
CHAT = (
    "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}{{ date_string }}"
)
DATE = "26 Jul 2024"
USER = Message(role="user", content="U")


def tokenizer(*, bos: bool = True, eos: bool = False, chat: str | None = None) -> Any:
    """A real fast tokenizer of single characters, which adds what it is told to."""
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    characters = ["<unk>", "<s>", "</s>", *map(chr, range(32, 127)), "\n"]
    core = Tokenizer(models.WordLevel({c: i for i, c in enumerate(characters)}, "<unk>"))
    core.pre_tokenizer = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    single = f"{'<s> ' if bos else ''}$A{' </s>' if eos else ''}"
    core.post_processor = processors.TemplateProcessing(
        single=single, special_tokens=[("<s>", BOS), ("</s>", EOS)]
    )
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    made.chat_template = chat
    return made


def encode(prompt: Prompt, made: Any, template: Any = "auto") -> tuple[int, ...]:
    (encoded,) = encode_prompts(
        [prompt], made, template=template, max_model_len=1000, max_new_tokens=10
    )
    assert encoded.content == prompt.content
    return encoded.token_ids


def refused(*prompts: Prompt, made: Any = None, **arguments: Any) -> str:
    arguments = {"max_model_len": 100, "max_new_tokens": 10, **arguments}
    with pytest.raises(InputError) as caught:
        encode_prompts(prompts, made or tokenizer(), **arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("template, text", [
    ("auto", "U"),
    ("plain", "U"),
    ("chat", f"<s>[user]U[assistant]{DATE}"),
    ("hh", "\n\nHuman: U\n\nAssistant:"),
    ("hh_hash", "###Human: U###Assistant:"),
])  # fmt: skip
def test_a_text_prompt_in_each_template(template, text):
    assert render(Prompt("p", "U"), tokenizer(chat=CHAT), template) == text


@pytest.mark.parametrize("template, text", [
    ("auto", f"<s>[user]U[assistant]A[user]V[assistant]{DATE}"),
    ("hh", "\n\nHuman: U\n\nAssistant: A\n\nHuman: V\n\nAssistant:"),
    ("hh_hash", "###Human: U###Assistant: A###Human: V###Assistant:"),
])  # fmt: skip
def test_messages_in_each_template(template, text):
    answer, again = Message(role="assistant", content="A"), Message(role="user", content="V")
    prompt = Prompt("p", (USER, answer, again))
    assert render(prompt, tokenizer(chat=CHAT), template) == text


@given(
    bos=st.booleans(),
    eos=st.booleans(),
    written=st.integers(0, 2),
    template=st.sampled_from(["plain", "chat", "hh", "hh_hash"]),
    text=st.text("abc \n", min_size=1, max_size=8),
)
def test_one_bos_and_never_an_eos(bos, eos, written, template, text):
    # a BOS may come from the tokenizer, from the chat template, from the text, or from several
    made = tokenizer(bos=bos, eos=eos, chat="<s>" * written + "{{ messages[0].content }}")
    content = "<s>" * written + text if template == "plain" else text
    ids = encode(Prompt("p", content), made, template)
    expects_bos = bos or (written > 0 and template in ("plain", "chat"))
    assert ids.count(BOS) == int(expects_bos)
    assert not expects_bos or ids[0] == BOS
    assert EOS not in ids
    body = render(Prompt("p", text), made, template).replace("<s>", "")
    assert made.decode(ids[int(expects_bos) :]).replace(" ", "") == body.replace(" ", "")


def test_many_prompts_encode_like_each_alone():
    prompts = [Prompt(str(i), "a" * i, {"x": i}) for i in range(1, 20)]
    together = encode_prompts(prompts, tokenizer(), max_model_len=100, max_new_tokens=10)
    assert [p.token_ids for p in together] == [encode(p, tokenizer()) for p in prompts]
    assert [(p.id, p.fields) for p in together] == [(p.id, p.fields) for p in prompts]
    assert encode_prompts([], tokenizer(), max_model_len=100, max_new_tokens=10) == []


def test_long_prompts_are_dropped_and_counted(caplog):
    # BOS counts: five letters are six tokens
    prompts = [Prompt("long", "aaaaaa"), Prompt("fits", "aaaaa")]
    with caplog.at_level(logging.INFO, logger="rollout"):
        kept = encode_prompts(
            prompts, tokenizer(), max_model_len=16, max_new_tokens=10, max_prompt_tokens=6
        )
    assert [p.id for p in kept] == ["fits"]
    assert "dropped 1 of 2 prompts, longer than prompts.max_tokens = 6" in caplog.text


def test_a_prompt_without_room_for_its_answer():
    message = refused(Prompt("fits", "a" * 5), Prompt("long", "a" * 6), max_model_len=16)
    assert says(message, "prompt 'long': 7 tokens 10 new 16")
    assert says(message, "prompts.max_tokens 6 sampling.max_new_tokens")
    message = refused(Prompt("p", "a"), max_model_len=8)
    assert says(message, "8 sampling.max_new_tokens") and "prompts.max_tokens" not in message


def test_a_filter_that_drops_every_prompt():
    assert says(refused(Prompt("p", "aaa"), max_prompt_tokens=3), "max_tokens: 3 shortest 4 tokens")


def test_a_prompt_of_no_tokens():
    assert refused(Prompt("p", "")).startswith("prompt 'p': encodes to no tokens")


@pytest.mark.parametrize("template", ["auto", "chat"])
def test_messages_without_a_chat_template(template):
    message = refused(Prompt("p", (USER,)), template=template)
    assert says(message, "no chat template policy.template hh hh_hash")


def test_templates_that_cannot_say_a_prompt():
    system = Message(role="system", content="S")
    assert says(refused(Prompt("p", "a"), template="alpaca"), "'alpaca' auto, chat, plain")
    assert "the plain template takes text" in refused(Prompt("p", (USER,)), template="plain")
    assert "the hh template has no system turn" in refused(
        Prompt("p", (system, USER)), template="hh"
    )
    refusing = tokenizer(chat="{{ raise_exception('System role\nnot supported') }}")
    message = refused(Prompt("p", (system, USER)), made=refusing)
    assert "chat template refuses the conversation: System role not supported" in message


@pytest.mark.skipif(
    not MODEL.is_dir(), reason="the model is not here; set RAFT_DATA to the folder of models/"
)
def test_a_llama_tokenizer_as_published():
    from transformers import AutoTokenizer

    made = AutoTokenizer.from_pretrained(MODEL)
    assert list(encode(Prompt("p", "Once upon a time"), made)) == made("Once upon a time").input_ids
    ids = encode(Prompt("p", (USER,)), made, "hh")
    assert ids.count(BOS) == 1
    assert made.decode(ids[1:]).strip() == "Human: U\n\nAssistant:"
