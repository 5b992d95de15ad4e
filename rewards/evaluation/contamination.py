"""Find the evaluation prompts that the training data also have: the same, or nearly the same.

Exact: equal but for case, punctuation and spacing. Near: the two share at least 80 % of the runs of
13 words of the shorter one. Runs of 13 words are GPT-3's measure (Brown et al. 2020, arXiv
2005.14165, appendix C), which counts a single shared run as contamination and, like this one, skips
runs that are in more than ten documents; a share, at 70 % of 8-grams, is PaLM's (Chowdhery et al.
2022, arXiv 2204.02311). A prompt of fewer than 13 words has no such run: it can only match exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Literal

import numpy as np

from rewards.data.dialogue import prompt_text, prompt_words, same_prompt_key
from rewards.data.read import read_pairs
from rewards.evaluation.dataset import EvalSet
from rollout.types import Message

__all__ = ["Contamination", "Match", "Overlap", "find_contamination", "overlap"]

Prompt = str | Sequence[Message]
_Kind = Literal["exact", "near"]
_Gram = tuple[str, ...]

_COMMON = 10  # a run in more distinct evaluation prompts is a set phrase, and tells nothing
_EXAMPLES = 3
_SHOWN = 60


@dataclass(frozen=True, slots=True)
class Match:
    """An evaluation prompt and the training prompt nearest to it, by their places from 0.

    `share` is the share of common runs of words, 1 where exact.
    """

    evaluation: int
    train: int
    kind: _Kind
    share: float
    text: str


@dataclass(frozen=True, slots=True)
class Overlap:
    """The evaluation prompts that match a training prompt, in their order."""

    evaluation_count: int
    train_count: int
    matches: tuple[Match, ...]

    @property
    def exact(self) -> tuple[Match, ...]:
        return tuple(match for match in self.matches if match.kind == "exact")

    @property
    def near(self) -> tuple[Match, ...]:
        return tuple(match for match in self.matches if match.kind == "near")


@dataclass(frozen=True, slots=True)
class Example:
    """An evaluation prompt that the training data have too, shortened."""

    kind: _Kind
    share: float
    text: str


@dataclass(frozen=True, slots=True)
class Contamination:
    """How much of an evaluation set is also in a training file.

    Args:
        train_pairs: pairs of the training file.
        prompts: distinct prompts of the evaluation set.
        exact_prompts, near_prompts: those of them that are training prompts, or nearly so.
        pairs: pairs of the evaluation set.
        pairs_of_these: those of them with an exact or near prompt.
        same_pairs: pairs whose two responses are in the training file for that prompt.
    """

    train: str
    train_pairs: int
    prompts: int
    exact_prompts: int
    near_prompts: int
    pairs: int
    pairs_of_these: int
    same_pairs: int
    examples: tuple[Example, ...]


def find_contamination(data: EvalSet, train: str) -> Contamination:
    """Compare an evaluation set with the training pairs of the file or dataset `train`.

    Raises InputError where `train` cannot be read as pairs.
    """
    trained = read_pairs(train).pairs
    digests = {_pair_digest(pair.prompt, (pair.chosen, pair.rejected)) for pair in trained}
    prompts: dict[int, Prompt] = {}
    same = 0
    for number, row in zip(data.prompt_N.tolist(), data.rows(), strict=True):
        if not row.groups:
            continue
        content, texts = row.groups[0].prompt.content, row.texts
        prompts.setdefault(number, content)
        same += sum(_pair_digest(content, (texts[i], texts[j])) in digests for i, j in row.pairs)
    numbers = list(prompts)
    found = overlap(prompts.values(), (pair.prompt for pair in trained))
    matched = [numbers[match.evaluation] for match in found.matches]
    return Contamination(
        train=train,
        train_pairs=len(trained),
        prompts=len(prompts),
        exact_prompts=len(found.exact),
        near_prompts=len(found.near),
        pairs=len(data.row_M),
        pairs_of_these=int(np.isin(data.prompt_M, matched).sum()),
        same_pairs=same,
        examples=tuple(
            Example(match.kind, match.share, _shortened(match.text))
            for match in (*found.exact[:_EXAMPLES], *found.near[:_EXAMPLES])
        ),
    )


def overlap(
    evaluation: Iterable[Prompt], train: Iterable[Prompt], *, n: int = 13, share: float = 0.8
) -> Overlap:
    """Find the evaluation prompts that the training prompts contain.

    System messages are skipped; the turns of a longer prompt count as one text. The evaluation's
    runs are held in memory, the training prompts are not. Of several equally near training prompts
    the first is named.

    Raises ValueError for n below 1 or a share outside (0, 1].
    """
    if n < 1 or not 0 < share <= 1:
        raise ValueError(f"n must be 1 or more and 0 < share <= 1, and are {n} and {share}")
    index = _Index(evaluation, n)
    best: dict[int, Match] = {}
    count = 0
    for count, prompt in enumerate(train, start=1):
        for place, kind, shared in index.matches(prompt_text(prompt), share):
            known = best.get(place)
            if known is None or (kind, -shared) < (known.kind, -known.share):  # "exact" < "near"
                best[place] = Match(place, count - 1, kind, shared, index.texts[place])
    return Overlap(len(index.texts), count, tuple(best[place] for place in sorted(best)))


class _Index:
    """The evaluation's prompts, by their words and by their runs of n words."""

    def __init__(self, evaluation: Iterable[Prompt], n: int) -> None:
        self.texts = [prompt_text(prompt) for prompt in evaluation]
        self._n = n
        # equal prompts share one key; their places are found through its first
        self._places: dict[str, list[int]] = {}
        holders: dict[_Gram, list[str]] = {}
        for place, text in enumerate(self.texts):
            words = prompt_words(text)
            key = " ".join(words)
            self._places.setdefault(key, []).append(place)
            if len(self._places[key]) == 1:
                for gram in _grams(words, n):
                    holders.setdefault(gram, []).append(key)
        self._common = {gram for gram, keys in holders.items() if len(keys) > _COMMON}
        self._holders = {g: keys for g, keys in holders.items() if g not in self._common}
        self._sizes = Counter(key for keys in self._holders.values() for key in keys)

    def matches(self, text: str, share: float) -> list[tuple[int, _Kind, float]]:
        """Return (place, kind, share) of every evaluation prompt that `text` is, or is nearly."""
        words = prompt_words(text)
        own = " ".join(words)
        found: list[tuple[int, _Kind, float]] = []
        for place in self._places.get(own, ()):
            found.append((place, "exact", 1.0))
        grams = _grams(words, self._n) - self._common
        shared = Counter(key for gram in grams for key in self._holders.get(gram, ()))
        for key, count in shared.items():
            # the share of the shorter one's runs: a longer prompt that holds a question asks it too
            near = count / min(len(grams), self._sizes[key])
            if near >= share and key != own:
                for place in self._places[key]:
                    found.append((place, "near", near))
        return found


def _grams(words: Sequence[str], n: int) -> set[_Gram]:
    return {tuple(words[at : at + n]) for at in range(len(words) - n + 1)}


def _pair_digest(prompt: Prompt, responses: tuple[str, str]) -> bytes:
    """Return a digest of prompt and responses, the same whichever response is the better one."""
    parts = (same_prompt_key(prompt_text(prompt)), *sorted(one.strip() for one in responses))
    return blake2b("\x1e".join(parts).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _shortened(text: str) -> str:
    flat = " ".join(text.split())
    return flat if len(flat) <= _SHOWN else flat[: _SHOWN - 1] + "…"
