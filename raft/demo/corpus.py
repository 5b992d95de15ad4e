"""A customer-service corpus from a seeded grammar: prompts of customers, responses of agents.

Agents are kind, plain or rude, name the right thing or another, and offer the right remedy or
another, so that a small language model learns varied responses, among which RAFT can select. This
module knows no models, and not how a response is scored (`raft.demo.gold`).
"""

from __future__ import annotations

import random
from collections.abc import Iterator

__all__ = [
    "NAMES",
    "PROBLEMS",
    "REMEDIES",
    "THINGS",
    "heldout_prompts",
    "texts",
    "train_prompts",
]

NAMES = (
    "Ada", "Ben", "Carla", "Dan", "Ella", "Finn", "Grace", "Hugo", "Iris", "Jonas", "Kira",
    "Leo", "Mia", "Noah", "Olga", "Paul", "Rosa", "Sam", "Tara", "Viktor",
)  # fmt: skip
THINGS = (
    "kettle", "bicycle", "lamp", "radio", "sofa", "watch", "camera", "blender", "heater",
    "keyboard", "printer", "guitar", "tent", "drill", "mirror", "toaster", "scooter", "fridge",
    "clock", "jacket", "desk", "phone", "oven", "piano",
)  # fmt: skip
# problem -> its right remedy, a key of REMEDIES; the key is the verb by which a text names it
PROBLEMS = {
    "is leaking": "repair",
    "is broken": "repair",
    "makes a strange noise": "repair",
    "never arrived": "send",
    "is two weeks late": "send",
    "went to another house": "send",
    "has the wrong colour": "exchange",
    "is far too small": "exchange",
    "is not the one I chose": "exchange",
    "was charged twice": "refund",
    "costs less elsewhere": "refund",
    "was cancelled but I still paid": "refund",
}
REMEDIES = {
    "repair": ("repair {it} for free", "repair {it} tomorrow morning"),
    "send": ("send {it} with a courier", "send {it} again today"),
    "exchange": ("exchange {it} this week", "exchange {it} at your door"),
    "refund": ("refund {it} in full", "refund {it} within a day"),
}
HELDOUT_SHARE = 0.2

_ASKING = (
    "Hello, this is {name}. My {thing} {problem}.",
    "I am {name} and my {thing} {problem}. What can you do?",
    "My {thing} {problem}. Please answer soon, {name}",
    "This is {name} again. The {thing} {problem}!",
)
_Tone = str
_ANSWERING: dict[str, dict[_Tone, tuple[str, ...]]] = {
    "opening": {
        "kind": ("Dear {name}, thank you for writing.", "Welcome back, {name}.", "Hello {name}!"),
        "plain": ("Hello.", "Your message is here.", "Yes."),
        "rude": ("You again.", "What a stupid message.", "Stop whining, {name}."),
    },
    "feeling": {
        "kind": ("I am so sorry about the {thing}.", "I understand, and I apologise."),
        "plain": ("So it is about the {thing}.", "I have read about the {thing}."),
        "rude": ("Nobody cares about your {thing}.", "That is a silly {thing} anyway."),
    },
    "remedy": {
        "kind": ("We will gladly {remedy}.", "We are happy to {remedy}."),
        "plain": ("We can {remedy}.", "Maybe we {remedy}."),
        "rude": ("We will not {remedy}.", "Fix it yourself, lazy customer.", "It is your fault."),
    },
    "closing": {
        "kind": ("Have a lovely day!", "Thank you for your patience.", "Take care, {name}."),
        "plain": ("Goodbye.", "That is all.", "The office closes at five."),
        "rude": ("Go away.", "Never write to us again.", "You are annoying."),
    },
}
_KEPT = {"opening": 0.7, "feeling": 0.6, "remedy": 0.75, "closing": 0.6}
_TONES = ("kind", "plain", "rude")
_TONE_WEIGHTS = (0.25, 0.35, 0.4)
# probabilities that a sentence has its response's tone, names the right thing, the right remedy
_MOOD_KEPT, _RIGHT_THING, _RIGHT_REMEDY = 0.5, 0.8, 0.5


def train_prompts(count: int, seed: int) -> list[str]:
    """Return `count` different prompts about (thing, problem) pairs of the training texts.

    Raises ValueError where the grammar has fewer.
    """
    return _distinct(_prompts(seed, heldout=False), count)


def heldout_prompts(count: int, seed: int) -> list[str]:
    """Return `count` different prompts about (thing, problem) pairs that no training text has.

    Raises ValueError where the grammar has fewer.
    """
    return _distinct(_prompts(seed, heldout=True), count)


def texts(count: int, seed: int) -> list[tuple[str, str]]:
    """Return `count` training texts as (prompt, response), which the policy learns to imitate."""
    rng = random.Random(f"{seed}/texts")
    pairs = _pairs(seed, heldout=False)
    return [_exchange(rng, *rng.choice(pairs)) for _ in range(count)]


def _pairs(seed: int, *, heldout: bool) -> list[tuple[str, str]]:
    """Return the (thing, problem) pairs of one side of the split, in an order from the seed."""
    pairs = [(thing, problem) for thing in THINGS for problem in PROBLEMS]
    random.Random(f"{seed}/split").shuffle(pairs)
    cut = round(HELDOUT_SHARE * len(pairs))
    return pairs[:cut] if heldout else pairs[cut:]


def _prompts(seed: int, *, heldout: bool) -> Iterator[str]:
    """Return an iterator over all prompts of one side of the split, shuffled."""
    prompts = [
        _prompt(asking, name, thing, problem)
        for thing, problem in _pairs(seed, heldout=heldout)
        for name in NAMES
        for asking in _ASKING
    ]
    random.Random(f"{seed}/prompts/{heldout}").shuffle(prompts)
    return iter(prompts)


def _distinct(prompts: Iterator[str], count: int) -> list[str]:
    taken = [prompt for prompt, _ in zip(prompts, range(count), strict=False)]
    if len(taken) < count:
        raise ValueError(f"the grammar has only {len(taken)} such prompts, {count} were asked for")
    return taken


def _prompt(asking: str, name: str, thing: str, problem: str) -> str:
    return f"Customer: {asking.format(name=name, thing=thing, problem=problem)}\nAgent:"


def _exchange(rng: random.Random, thing: str, problem: str) -> tuple[str, str]:
    name = rng.choice(NAMES)
    prompt = _prompt(rng.choice(_ASKING), name, thing, problem)
    return prompt, " " + " ".join(_sentences(rng, name, thing, PROBLEMS[problem]))


def _sentences(rng: random.Random, name: str, thing: str, right: str) -> list[str]:
    """Return the sentences of one agent's response.

    Each part is omitted at random, and each sentence has the response's tone or a random one.
    """
    mood = _tone(rng)
    parts = [part for part in _ANSWERING if rng.random() < _KEPT[part]] or ["remedy"]
    return [_sentence(rng, part, mood, name, thing, right) for part in parts]


def _sentence(rng: random.Random, part: str, mood: _Tone, name: str, thing: str, right: str) -> str:
    tone = mood if rng.random() < _MOOD_KEPT else _tone(rng)
    named = thing if rng.random() < _RIGHT_THING else rng.choice(THINGS)
    kind_of_remedy = right if rng.random() < _RIGHT_REMEDY else rng.choice(tuple(REMEDIES))
    remedy = rng.choice(REMEDIES[kind_of_remedy]).format(it=rng.choice(("it", f"the {named}")))
    return rng.choice(_ANSWERING[part][tone]).format(name=name, thing=named, remedy=remedy)


def _tone(rng: random.Random) -> _Tone:
    return rng.choices(_TONES, _TONE_WEIGHTS)[0]
