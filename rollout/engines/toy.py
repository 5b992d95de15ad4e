"""A toy policy, a unigram over words, for tests of everything around a policy.

Its folder holds `toy_policy.json`: {"words": [...], "logits": [...], "context": int}; word 0 ends
the text. It needs no torch, samples thousands of responses a second, and learns
(`raft.updates.toy`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from rollout.engines.base import TOY_FILE
from rollout.seeds import derive_seed
from rollout.storage.files import intact, read_json
from rollout.types import Completion, Group, Prompt, Sampling

END = 0


class ToyTokenizer:
    """Whole words of a fixed list; unknown words become the last one."""

    chat_template = None
    bos_token_id = None
    bos_token = None
    eos_token_id = END

    def __init__(self, words: Sequence[str]) -> None:
        self.words = list(words)
        self._ids = {word: number for number, word in enumerate(words)}

    def __call__(self, texts: Sequence[str], **_: object) -> dict[str, list[list[int]]]:
        unknown = len(self.words) - 1
        return {"input_ids": [[self._ids.get(w, unknown) for w in t.split()] for t in texts]}

    def decode(self, ids: Sequence[int]) -> str:
        return " ".join(self.words[i] for i in ids if i != END)


class ToyEngine:
    """The `Engine` protocol over a unigram policy. Deterministic in (seed, prompt id, weights)."""

    name = "toy"
    dtype = "float64"

    def __init__(self, model: str, *, version: int = 0) -> None:
        self.tokenizer, self._logits = read_toy(model)
        self.version = version

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
    ) -> Iterator[Group]:
        """Yield groups as `Engine.generate` does; seeds are always per prompt."""
        for prompt in prompts:
            base = derive_seed(seed, prompt.id)
            completions = (self._draw(base + k, sampling) for k in sampling.numbers(prompt))
            yield Group(prompt, tuple(completions), self.version)

    def load_weights(self, path: str, version: int) -> None:
        self.tokenizer, self._logits = read_toy(path)
        self.version = version

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        return [float(self._log_softmax(1.0)[token]) for token in token_ids[1:]]

    def checksums(self) -> list[dict[str, int]]:
        return [{"logits": zlib.crc32(self._logits.tobytes())}]

    def sleep(self, forget: bool = False) -> None: ...

    def wake(self) -> None: ...

    def _draw(self, seed: int, sampling: Sampling) -> Completion:
        noise = np.random.default_rng(seed).gumbel(
            size=(sampling.max_new_tokens, len(self._logits))
        )
        scale = 0.0 if sampling.temperature == 0 else 1.0
        scores = self._log_softmax(sampling.temperature or 1.0) + scale * noise
        ids = scores.argmax(-1).tolist()
        ended = END in ids
        ids = ids[: ids.index(END) + 1] if ended else ids
        text = " " + self.tokenizer.decode(ids)
        return Completion(text, tuple(ids), "stop" if ended else "length", seed)

    def _log_softmax(self, temperature: float) -> np.ndarray:
        scaled = self._logits / temperature
        return scaled - np.logaddexp.reduce(scaled)


def read_toy(model: str) -> tuple[ToyTokenizer, np.ndarray]:
    file = Path(model) / TOY_FILE
    with intact(file):
        stored = read_json(file)
        return ToyTokenizer(stored["words"]), np.array(stored["logits"], dtype=np.float64)


def write_toy(
    folder: str | Path, words: Sequence[str], logits: Sequence[float], context: int = 512
) -> None:
    Path(folder).mkdir(parents=True, exist_ok=True)
    stored = {"words": list(words), "logits": list(logits), "context": context}
    (Path(folder) / TOY_FILE).write_text(json.dumps(stored))
