r"""Read and check messages: their roles, tool calls, reasoning and content parts.

| in a file | here |
|---|---|
| `{"role", "content"}`, `{"from", "value"}` | `{"role", "content"}` |
| human, gpt, observation, function, … | user, assistant, tool |
| `[{"type": "text", "text": …}, …]` as content | the texts, end to end |
| `reasoning_content`, `reasoning`, `thinking` | `reasoning_content` |
| `tool_calls`, `function_call`, a turn from function_call | `tool_calls`, arguments as objects |
| `tools`, `functions` of any message | `tools` of the first one |

Images and other media are an InputError that names their key. Messages are also parsed out of
`\n\nHuman: …\n\nAssistant: …` text. In all functions `where` is the place of the row and `key` the
column of the value; errors begin with `where`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence

from rollout.data.jsonl import encodable, is_list, is_object, json_kind
from rollout.errors import InputError
from rollout.types import Completion, Message, with_keys

__all__ = [
    "MESSAGE_KEYS",
    "ROLES",
    "Content",
    "asking",
    "begins_with_hh_turn",
    "check_messages",
    "check_text",
    "checked_conversation",
    "hh_prompt",
    "parse_hh",
    "prompt_content",
    "read_answer",
    "read_tools",
    "refuse_media",
    "split_response",
]

Content = str | tuple[Message, ...]

ROLES = ("system", "developer", "user", "assistant", "tool")
_CALLS = ("function_call", "tool_call")
_ROLE_NAMES = {
    **dict.fromkeys(("human", "prompter"), "user"),
    **dict.fromkeys(("gpt", "chatgpt", "model", "bot", "ai", *_CALLS), "assistant"),
    **dict.fromkeys(("observation", "function", "tool_response", "ipython"), "tool"),
}
_REASONING = ("reasoning_content", "reasoning", "thinking")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
_TEXT_PARTS = ("text", "input_text", "output_text")
_PLAIN = {"role", "content"}
MESSAGE_KEYS = frozenset({
    *_PLAIN, "from", "value", "name", "tool_calls", "tool_call_id", "function_call", "tools",
    "functions", *_REASONING, *MEDIA,
})  # fmt: skip
_HH_ROLES = {"Human": "user", "Assistant": "assistant"}
_HH_TURN = re.compile(r"(?:\A\s*|\n\n)(Human|Assistant):")


def begins_with_hh_turn(text: str) -> bool:
    return _HH_TURN.match(text) is not None


def check_text(value: object, where: str, key: str) -> str:
    """Return `value`, a text that is not blank. Raises InputError for anything else."""
    if not isinstance(value, str):
        raise InputError(
            where,
            f"{key!r} is {json_kind(value)}",
            "make it a string or a list of messages",
        )
    if not value.strip():
        raise InputError(where, f"{key!r} is empty", "write a prompt or delete the row")
    return encodable(value, where, key)


def check_messages(value: object, where: str, key: str) -> list[Message]:
    """Return the checked messages of a list, or of one message alone.

    Raises InputError for anything else, and for a message that is none.
    """
    if is_object(value):
        value = [value]
    if not is_list(value):
        raise InputError(where, f"{key!r} is {json_kind(value)}", "make it a list of messages")
    if value and key in ("chosen", "rejected") and all(isinstance(one, str) for one in value):
        raise InputError(
            where, f"{key!r} is a list of texts and not of messages",
            "RewardBench 2 and RM-Bench have such sides: raft eval-reward reads them",
        )  # fmt: skip
    return _tools_first(
        [_message(one, f"{where}: {key!r} message {n}") for n, one in enumerate(value, start=1)]
    )


def checked_conversation(turns: Sequence[Mapping[str, object]], where: str) -> list[Message]:
    """Return the checked messages of a conversation that a program gives.

    Messages with a known role, a text and no other key are returned without the slower full check.
    Raises InputError as `check_messages` does.
    """
    if all(
        set(one) == _PLAIN and one["role"] in ROLES and isinstance(one["content"], str)
        for one in turns
    ):
        return [Message(role=str(one["role"]), content=str(one["content"])) for one in turns]
    return check_messages([dict(one) for one in turns], where, "messages")


def asking(messages: Sequence[Message], where: str, key: str = "prompt") -> tuple[Message, ...]:
    """Return `messages` as a prompt, without an empty assistant's message at their end.

    The last message is a user's or a tool's, or the beginning of an assistant's, which is then
    continued. Raises InputError for other ends, and where all messages are blank.
    """
    if not any(message["content"].strip() for message in messages):
        raise InputError(where, f"{key!r} is empty", "write a message or delete the row")
    last = messages[-1]
    if last["role"] == "assistant" and not last["content"] and last.keys() == _PLAIN:
        return asking(messages[:-1], where, key)
    if last["role"] in ("system", "developer") or "tool_calls" in last:
        said = "tool_calls" if "tool_calls" in last else f"a message of the {last['role']}"
        raise InputError(
            where, f"{key!r} ends with {said}", "end the prompt with a user or tool message"
        )
    return tuple(messages)


def prompt_content(value: object, where: str, key: str = "prompt") -> Content:
    """Return a prompt: its text, or its messages. Raises InputError for a value that is neither."""
    if is_list(value) or is_object(value):
        return asking(check_messages(value, where, key), where, key)
    return check_text(value, where, key)


def read_answer(value: object, where: str, key: str) -> Completion:
    """Return a response, given as a text, which may be empty, or as one assistant's message.

    Raises InputError for anything else.
    """
    if is_object(value) or is_list(value):
        messages = check_messages(value, where, key)
        if len(messages) != 1:
            raise InputError(where, f"{key} is {len(messages)} messages", "give the last one")
        return split_response(messages, where, key)[1]
    if not isinstance(value, str):
        raise InputError(where, f"{key} is {json_kind(value)}", "make it a string")
    return Completion(encodable(value, where, key))


def split_response(
    messages: Sequence[Message], where: str, key: str
) -> tuple[tuple[Message, ...], Completion]:
    """Return (all but the last message, the last one as a response).

    Raises InputError where there are no messages, or the last one is not the assistant's.
    """
    if not messages:
        raise InputError(where, f"{key!r} is an empty list", "write messages or delete the row")
    *before, last = messages
    if last["role"] != "assistant":
        raise InputError(
            where,
            f"{key!r} ends with a message of the {last['role']}",
            "a conversation to score ends with the assistant's",
        )
    return tuple(before), Completion(
        last["content"], message=None if last.keys() == _PLAIN else last
    )


def read_tools(value: object, where: str, key: str) -> list[object]:
    """Return the tools of a conversation from a list of objects, or JSON text of one; [] of none.

    Raises InputError for anything else.
    """
    if isinstance(value, str) and value.strip():
        value = _json(value, where, key)
    if value in (None, "", []):
        return []
    if not is_list(value) or not all(is_object(one) for one in value):
        raise InputError(where, f"{key!r} is no list of tools", "give objects, or JSON of them")
    # `functions` is the older form, where each object is a bare function
    bare = key == "functions"
    return [{"type": "function", "function": one} if bare else one for one in value]


def refuse_media(holder: Mapping[str, object], where: str) -> None:
    """Refuse with InputError images and other media, which no reward model here reads."""
    for key in MEDIA:
        if holder.get(key):
            raise InputError(where, f"{key!r} is content that is not text", "leave the row out")


def parse_hh(text: str, where: str, key: str) -> list[Message]:
    r"""Parse HH-RLHF text (Bai et al. 2022) into messages; spaces around a turn are removed.

    Two turns of one speaker in a row stay two messages, as in the data. A blank text has no
    messages. Raises InputError for text that does not begin with a turn.
    """
    before, *parts = _HH_TURN.split(text) if text.strip() else [""]
    if before.strip() or (text.strip() and not parts):
        raise InputError(
            where,
            f"{key!r} does not begin with a Human: or Assistant: turn",
            "fix the row or name another format",
        )
    encodable(text, where, key)
    turns = zip(parts[::2], parts[1::2], strict=True)
    return [Message(role=_HH_ROLES[who], content=said.strip()) for who, said in turns]


def hh_prompt(text: str, where: str, key: str) -> tuple[Message, ...]:
    """Return the messages of an HH prompt, without the empty Assistant turn at its end.

    Raises InputError as `parse_hh` and `asking` do.
    """
    return asking(parse_hh(text, where, key), where, key)


def _message(value: object, at: str) -> Message:
    if not is_object(value):
        raise InputError(at, 'is not {"role": …, "content": …}', "write both")
    names = ("role", "content") if "role" in value else ("from", "value")
    given = value.get(names[0])
    if given is None:
        raise InputError(at, 'is not {"role": …, "content": …}', "write both")
    role = _ROLE_NAMES.get(given, given) if isinstance(given, str) else None
    if role not in ROLES:
        shown = repr(given) if isinstance(given, str) else json_kind(given)
        raise InputError(at, f"has role {shown}", f"use one of {', '.join(ROLES)}")
    refuse_media(value, at)
    beside = _beside(value, at)
    content: object = value.get(names[1])
    if given in _CALLS and "tool_calls" not in beside:
        beside["tool_calls"] = _calls(_json(content, at, "content"), at)
        content = None
    if names[1] not in value and "tool_calls" not in beside:
        raise InputError(at, 'is not {"role": …, "content": …}', "write both")
    text = "" if content is None and "tool_calls" in beside else _text(content, at)
    return with_keys(beside, role=role, content=text)


def _beside(value: Mapping[str, object], at: str) -> Message:
    """Return a message with the checked keys beside role and content that are not empty.

    Parquet fills keys that a message does not have with null.
    """
    found = Message(role="", content="")
    if calls := value.get("tool_calls") or value.get("function_call"):
        found["tool_calls"] = _calls(calls, at)
    for key in ("name", "tool_call_id"):
        if (text := value.get(key)) is not None:
            found[key] = _string(text, at, key)
    said = [key for key in _REASONING if value.get(key)]
    if said:
        found["reasoning_content"] = _string(value[said[0]], at, said[0])
    for key in ("tools", "functions"):
        if tools := read_tools(value.get(key), at, key):
            found["tools"] = tools
    return found


def _calls(value: object, at: str) -> list[object]:
    """Return tool calls in the form that chat templates read, arguments as objects:
    {"type": "function", "function": {"name", "arguments"}}, with "id" where it is given."""
    calls: list[object] = []
    for one in value if is_list(value) else [value]:
        call = one if is_object(one) else {}
        function = call.get("function", call)
        if not is_object(function) or not isinstance(function.get("name"), str):
            raise InputError(at, "has a tool call without a name", 'write {"name", "arguments"}')
        arguments = function.get("arguments", function.get("parameters"))
        if isinstance(arguments, str):  # OpenAI writes JSON text, templates read an object
            arguments = _json(arguments or "{}", at, "arguments")
        made: dict[str, object] = {"name": function["name"], "arguments": arguments or {}}
        named = {"id": call["id"]} if call is not function and call.get("id") else {}
        calls.append({**named, "type": "function", "function": made})
    return calls


def _text(content: object, at: str) -> str:
    if is_list(content):
        return "".join(_part(part, at) for part in content)
    if not isinstance(content, str):
        raise InputError(at, f"has {json_kind(content)} as content", "make it a string")
    return encodable(content, at, "content")


def _part(part: object, at: str) -> str:
    if isinstance(part, str):
        return encodable(part, at, "content")
    kind = part.get("type") if is_object(part) else json_kind(part)
    if not is_object(part) or kind not in _TEXT_PARTS:
        raise InputError(at, f"has content of type {kind!r}", "only parts of type text are read")
    return _string(part.get("text"), at, "text")


def _tools_first(messages: list[Message]) -> list[Message]:
    """Move the tools of all messages to the first one, and return the messages."""
    tools = [tool for message in messages for tool in message.pop("tools", [])]
    if tools and messages:
        messages[0]["tools"] = tools
    return messages


def _json(value: object, at: str, key: str) -> object:
    try:
        return json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        raise InputError(at, f"{key!r} is no JSON", "write the JSON of what is called") from None


def _string(value: object, at: str, key: str) -> str:
    if not isinstance(value, str):
        raise InputError(at, f"{key!r} is {json_kind(value)}", "make it a string")
    return encodable(value, at, key)
