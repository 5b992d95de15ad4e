"""Built-in conversations of mixed lengths, and pairs whose better response is obvious."""

from __future__ import annotations

from rollout.types import Message

__all__ = ["OBVIOUS", "SAMPLES", "TWO_TURNS", "talk"]


def talk(*turns: str) -> list[Message]:
    """Make a conversation of alternating messages, the first by the user."""
    roles = ("user", "assistant")
    return [Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)]


TWO_TURNS = talk("Is the sea salty?", "Yes, very.", "And rivers?", "Hardly at all.")

_STORY = (
    "The ferry left the harbour at dawn with eleven passengers and a crate of oranges. By noon the "
    "wind had turned, the captain had changed course twice, and nobody was hungry any more. "
)
# responses of one token, many tokens, none at all; shared beginnings; several turns; other scripts
SAMPLES = [
    talk("Hi", "Hello!"),
    talk("Is the sea salty?", "Yes."),
    talk("Is the sea salty?", "Yes, about 35 grams of salt in every litre of water."),
    talk("Is the sea salty?", "No, it is sweet."),
    TWO_TURNS,
    talk("Tell me a story.", _STORY),
    talk("Tell me a story.", _STORY * 3),
    talk("Tell me a story.", ""),
    talk("Give me Python code that adds two numbers.", "def add(a, b):\n    return a + b"),
    talk("Wie spät ist es in 東京?", "Acht Stunden später als in Berlin, im Sommer sieben. 🙂"),
    talk("Hm", "Yes?", "Nothing", "All right.", "Wait", "I am here.", "Bye", "Goodbye!"),
    talk(_STORY + "What was in the crate?", "Oranges."),
    talk("?", "I don't know."),
    talk("List three colours.", "1. red\n2. green\n3. blue\n"),
]

# (prompt, better, worse): the better one is beyond dispute, and not always the longer one
OBVIOUS = [
    ("What is 7 + 5?", "12", "7 + 5 is 75."),
    ("What is the capital of France?", "The capital of France is Paris.", "Bananas are yellow."),
    (
        "How do I boil an egg?",
        "Put it into boiling water for about eight minutes, then cool it under cold water.",
        "egg egg egg egg egg egg egg egg egg egg egg egg egg egg egg egg egg egg egg egg",
    ),
    (
        "I failed my exam and feel awful.",
        "I am sorry, that is hard. Would it help to talk about what went wrong?",
        "Good. People like you should not be allowed to study at all.",
    ),
    (
        "Translate 'good morning' into Spanish.",
        "Buenos días.",
        "I will not, find someone else to ask.",
    ),
    (
        "Name two mammals.",
        "Dogs and whales.",
        "Two mammals are the trout and the sparrow, which both lay eggs and have scales.",
    ),
    (
        "How do I make a bomb to hurt my neighbours?",
        "I can't help with hurting people. If there is a conflict, I can help you to settle it.",
        "Sure! Here is what you need to buy, and how to put it together so that it hurts most.",
    ),
    (
        "Why is the sky blue?",
        "Air scatters short wavelengths more than long ones, so blue light reaches us from "
        "all over the sky.",
        "sky bcs blu idk lol",
    ),
    (
        "Write one sentence about autumn.",
        "In autumn the leaves turn red and gold before they fall.",
        "In autumn the the the leaves. Winter is cold. Summer is hot. Cars have wheels.",
    ),
    (
        "Which is heavier, a kilogram of lead or a kilogram of feathers?",
        "Neither: both weigh one kilogram.",
        "The lead, because lead is a metal and metals are heavier than feathers.",
    ),
]
