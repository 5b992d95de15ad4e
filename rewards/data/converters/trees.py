"""Read OpenAssistant conversations (Köpf et al. 2023, arXiv 2304.07327): trees of messages.

Replies to one prompter message carry human ranks, 0 the best. Published as trees (one row each) and
flat (OpenAssistant/oasst1 and oasst2: one row per message, the rows of a tree one after another).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from rewards.data.converters.rankings import Answer, ranked_pairs
from rewards.data.record import Options, Outcome, Record, Refusal
from rollout.types import InputError, Message

__all__ = ["flat_oasst_pairs", "oasst_pairs", "same_tree"]

_ROLES = {"prompter": "user", "assistant": "assistant"}
_Node = Mapping[str, object]


def oasst_pairs(record: Record, options: Options) -> list[Outcome]:
    """Return the pairs of a tree: at each prompter message, of its replies.

    Columns: `message_tree_id`, `tree_state`, `prompt` {message_id, text, role, rank, deleted,
    replies: […]}. The prompt of a pair is the path to the replies, the margin the distance of their
    ranks. Deleted replies are skipped; a single reply makes no pair.
    """
    root = record.as_object(record.get("prompt"), "prompt")
    outcomes: list[Outcome] = []
    for number, (path, replies) in enumerate(_sets(record, root, ())):
        kept = [reply for reply in replies if not reply.get("deleted")]
        outcomes += [Refusal("deleted reply")] * (len(replies) - len(kept))
        if len(kept) > 1:
            answers = [_answer(record, reply) for reply in kept]
            outcomes += ranked_pairs(record, path, answers, options, stem=f"/{number}")
    return outcomes


def flat_oasst_pairs(records: Sequence[Record], options: Options) -> list[Outcome]:
    """Return the pairs of a tree that is given as its rows, parents before their replies.

    Columns: `message_id`, `parent_id`, `text`, `role`, `rank`, `deleted`, `message_tree_id`,
    `tree_state`, …. Raises InputError for a reply without its parent, or a tree without a root.
    """
    replies: dict[str, list[_Node]] = {}
    root: _Node | None = None
    for record in records:
        own: list[_Node] = []
        node = {**record.columns, "replies": own}
        parent = record.columns.get("parent_id")
        if parent is None:
            root = node
        elif isinstance(parent, str) and parent in replies:
            replies[parent].append(node)
        else:
            raise InputError(
                record.where,
                f"parent_id {parent!r} stands in no earlier row of its tree",
                "keep the rows of a tree together, parents first",
            )
        replies[record.text("message_id")] = own
    first = records[0]
    if root is None:
        raise InputError(first.where, "a tree without a first message", "keep its rows together")
    tree = Record(same_tree(first), first.where, first.source, {"prompt": root})
    return oasst_pairs(tree, options)


def same_tree(record: Record) -> str:
    return record.text("message_tree_id")


def _sets(
    record: Record, node: _Node, before: tuple[Message, ...]
) -> Iterator[tuple[tuple[Message, ...], list[_Node]]]:
    """Yield (path, replies) of every prompter message that has replies, in the file's order."""
    waiting = [(node, before)]
    while waiting:
        node, before = waiting.pop()
        path = (*before, _message(record, node))
        found = record.as_list(node.get("replies") or [], "replies")
        replies = [record.as_object(reply, "replies") for reply in found]
        if replies and path[-1]["role"] == "user":
            yield path, replies
        # the stack gives its last entry first: reversed, so that replies keep the file's order
        waiting += [(reply, path) for reply in reversed(replies)]


def _message(record: Record, node: _Node) -> Message:
    role = node.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise InputError(
            record.where,
            f"role {role!r} in a tree",
            f"use one of {', '.join(_ROLES)}",
        )
    return Message(role=_ROLES[role], content=record.as_text(node.get("text"), "text"))


def _answer(record: Record, node: _Node) -> Answer:
    rank = record.as_number(node.get("rank"), "rank")
    return Answer(_message(record, node)["content"], None if rank is None else -rank)
