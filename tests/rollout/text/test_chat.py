"""Chat templates: transformers' own rendering, where it says all; a refusal by name, where not."""

from __future__ import annotations

from typing import Any

import pytest
import tiny_models

from rollout.data.messages import check_messages
from rollout.errors import InputError
from rollout.text.chat import apply_chat_template
from rollout.text.templates import render
from rollout.types import Completion, Message, Prompt, conversation

PLAIN = (
    "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
# as Qwen's templates write tools, calls and thoughts
WHOLE = (
    "{% if tools %}<tools>{{ tools | tojson }}{% endif %}{% for m in messages %}<{{ m['role'] }}>"
    "{% if m.reasoning_content and loop.last %}<think>{{ m.reasoning_content }}</think>{% endif %}"
    "{{ m['content'] }}{% for c in m.tool_calls or [] %}"
    "<call>{{ c['function']['name'] }} {{ c['function']['arguments'] | tojson }}{% endfor %}</s>"
    "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
# knows users and assistants alone, and is silent about the rest
SILENT = (
    "{% for m in messages %}{% if m['role'] == 'user' %}<U>{{ m['content'] }}{% endif %}"
    "{% if m['role'] == 'assistant' %}<A>{{ m['content'] }}{% endif %}{% endfor %}"
)
TOOLS = [{"type": "function", "function": {"name": "weather", "parameters": {}}}]
CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Paris"}}}
U: dict[str, Any] = {"role": "user", "content": "Hi"}
A: dict[str, Any] = {"role": "assistant", "content": "Hello."}
T: dict[str, Any] = {"role": "tool", "content": "sun"}


def tokenizer(template: str) -> Any:
    made = tiny_models.tokenizer()
    made.chat_template = template
    return made


def said(template: str, *messages: dict[str, Any], **settings: Any) -> str:
    return apply_chat_template(
        tokenizer(template), check_messages(list(messages), "f:1", "messages"), **settings
    )


def test_a_conversation_is_what_transformers_makes_of_it() -> None:
    made = tokenizer(WHOLE)
    turns = [U, {"role": "assistant", "content": "", "tool_calls": [CALL]}, T, A]
    expected = made.apply_chat_template(turns, tools=TOOLS, tokenize=False)
    assert "<tools>" in expected and '{"city": "Paris"}' in expected
    assert said(WHOLE, {**U, "tools": TOOLS}, *turns[1:]) == expected
    thought = {**A, "reasoning_content": "greet"}
    assert said(WHOLE, U, thought) == made.apply_chat_template([U, thought], tokenize=False)
    # the thoughts of an earlier turn are left out on purpose
    assert said(WHOLE, U, thought, U, A).count("think") == 0


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking"])
def test_thoughts_by_any_name(key: str) -> None:
    assert "<think>greet</think>" in said(WHOLE, U, {**A, key: "greet"})
    gpt_oss = PLAIN.replace("{{ m['content'] }}", "{{ m.thinking }}{{ m['content'] }}")
    assert "<assistant>greetHello." in said(gpt_oss, U, {**A, key: "greet"})


@pytest.mark.parametrize(
    ("template", "messages", "name"),
    [
        (PLAIN, [{**U, "tools": TOOLS}, A], "'tools' of message 1"),
        (PLAIN, [U, {"role": "assistant", "content": None, "tool_calls": [CALL]}], "'tool_calls'"),
        (PLAIN, [U, {**A, "reasoning": "greet"}], "'reasoning_content'"),
        (SILENT, [{"role": "system", "content": "Be brief."}, U, A], "the system's message 1"),
        (SILENT, [{"role": "developer", "content": "Be brief."}, U, A], "the system's message 1"),
        (SILENT, [U, T, A], "the tool's message 2"),
    ],
)
def test_what_a_template_leaves_out_is_refused(
    template: str, messages: list[dict[str, Any]], name: str
) -> None:
    with pytest.raises(InputError, match="does not write") as caught:
        said(template, *messages)
    assert name in str(caught.value)


def test_a_developer_is_a_system_where_the_template_knows_no_developer() -> None:
    developer = {"role": "developer", "content": "Be brief."}
    assert said(PLAIN, developer, U, A).startswith("<developer>Be brief.")
    knows = SILENT.replace("== 'user'", "in ('user', 'system')")
    assert said(knows, developer, U, A).startswith("<U>Be brief.<U>Hi")


@pytest.mark.parametrize("template", ["chat", "hh", "hh_hash"])
@pytest.mark.parametrize("begun", ["Sure,", "Sure, "])
def test_a_begun_answer_is_continued(template: Any, begun: str) -> None:
    prompt = Prompt(
        "p", (Message(role="user", content="Hi"), Message(role="assistant", content=begun))
    )
    whole = render(prompt, tokenizer(PLAIN), template)
    assert whole.endswith(begun) and whole.lower().count("assistant") == 1
    # what a reward reads afterwards is one message
    turns = conversation(prompt, Completion(" here."))
    assert turns == [U, {"role": "assistant", "content": f"{begun} here."}]
    assert said(PLAIN, *map(dict, turns)).startswith(render(prompt, tokenizer(PLAIN), "chat"))
