"""The RAFT job that every variant runs: sizes, prompts, reward, and measured points."""

from __future__ import annotations

import argparse
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from experiments.data import data

# (prompts, responses), one response each -> scores
Scores = Callable[[Sequence[str], Sequence[str]], list[float]]


@dataclass(frozen=True)
class Job:
    """Sizes and settings of the job.

    Every variant evaluates after `eval_every` iterations, or GRPO steps, of `prompts` × `k`
    samples. `target` is the reward that ends a run without a number of iterations (GRPO's).
    `reward_model` is the folder of a learned reward that is optimised while gold is measured;
    without it the word list is both optimised and measured.
    """

    folder: str = ""
    seed: int = 0
    iterations: int = 8
    prompts: int = 32
    k: int = 8
    new_tokens: int = 64
    held_out: int = 64
    eval_k: int = 2
    eval_every: int = 4
    update: str = "sft"
    learning_rate: float = 3e-4
    epochs: int = 2
    batch_size: int = 16
    threads: int = len(os.sched_getaffinity(0))
    reward_model: str = ""
    target: float = 6.0
    time_limit: float = 900.0

    @property
    def model(self) -> str:
        return str(data("models/stories260k"))

    @property
    def lexicon(self) -> str:
        return str(data("data/lexicon/story_mood.json"))


def add_sizes(parser: argparse.ArgumentParser) -> None:
    """Add one option per size of the job."""
    for field in fields(Job):
        if field.name != "folder":
            name = "--" + field.name.replace("_", "-")
            parser.add_argument(name, type=type(field.default), default=field.default)


def sizes(options: argparse.Namespace) -> dict[str, Any]:
    names = [field.name for field in fields(Job) if field.name != "folder"]
    return {name: getattr(options, name) for name in names}


def save(job: Job) -> Path:
    """Write the job and its prompts to its folder, for a subprocess to read."""
    folder = Path(job.folder)
    folder.mkdir(parents=True, exist_ok=True)
    train, held_out = _openings(job)
    _write_prompts(folder / "prompts.jsonl", train)
    _write_prompts(folder / "held_out.jsonl", held_out)
    path = folder / "job.json"
    path.write_text(json.dumps(asdict(job)))
    return path


def load(path: str | Path) -> Job:
    return Job(**json.loads(Path(path).read_text()))


def job_of_command_line(program: str, doc: str | None) -> Job:
    """Return the job of a job file, or one with sizes from options, saved in its folder."""
    parser = argparse.ArgumentParser(prog=f"python -m {program}", description=doc)
    parser.add_argument("--job", help="a job.json that raft_loop wrote; sizes are then ignored")
    parser.add_argument("--folder", help="where it works (default: a fresh temporary folder)")
    add_sizes(parser)
    options = parser.parse_args()
    if options.job:
        return load(options.job)
    import tempfile

    folder = options.folder or tempfile.mkdtemp(prefix="raft-bench-")
    job = Job(folder=folder, **sizes(options))
    save(job)
    return job


def read_prompts(job: Job, name: str) -> list[str]:
    """Return the texts of "prompts" or "held_out"."""
    with open(Path(job.folder) / f"{name}.jsonl", encoding="utf-8") as file:
        return [json.loads(line)["prompt"] for line in file]


def scores_of(job: Job) -> tuple[Scores, Scores]:
    """Return the reward that is optimised, and the one that is measured on held-out prompts."""
    if not job.reward_model:
        words = json.loads(Path(job.lexicon).read_text())
        positive, negative = set(words["positive"]), set(words["negative"])

        def mood(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
            return [float(word_count(text, positive, negative)) for text in texts]

        return mood, mood
    from experiments.stories.gold import gold
    from rewards import load_reward

    model = load_reward(job.reward_model)

    def learned(prompts: Sequence[str], texts: Sequence[str]) -> list[float]:
        pairs = zip(prompts, texts, strict=True)
        return [float(score) for score in model.score([prompt + text for prompt, text in pairs])]

    return learned, gold


def word_count(text: str, positive: set[str], negative: set[str]) -> int:
    words = [word.strip('.,!?"') for word in text.lower().split()]
    return sum((word in positive) - (word in negative) for word in words)


class Points:
    """The evaluations of a job: (seconds, held-out reward, distinct_2, samples drawn).

    Seconds count from the first evaluation, without start-up. A low distinct_2, the share of
    distinct word pairs, shows a reward that is high because one word is repeated.
    """

    def __init__(self, job: Job) -> None:
        self._path = Path(job.folder) / "points.json"
        self._start: float | None = None
        self._samples = job.prompts * job.k
        self.points: list[tuple[float, float, float, int]] = []

    def add(
        self, reward: float, distinct_2: float, iteration: int, when: float | None = None
    ) -> None:
        now = time.monotonic() if when is None else when
        if self._start is None:
            self._start = now
        samples = iteration * self._samples
        self.points.append((now - self._start, reward, distinct_2, samples))
        self._path.write_text(json.dumps(self.points))
        print(
            f"{self.seconds:8.1f} s  {samples:6d} samples  reward {reward:6.3f}  "
            f"distinct_2 {distinct_2:.3f}",
            flush=True,
        )

    @property
    def seconds(self) -> float:
        return self.points[-1][0] if self.points else 0.0


def quiet() -> None:
    """Silence libraries while a table is made."""
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "ERROR")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("transformers").setLevel(logging.ERROR)


def _openings(job: Job) -> tuple[list[str], list[str]]:
    """Return (training, held-out) prompts; the split does not depend on the job's seed."""
    from experiments.stories.prompts import openings

    texts = openings()
    return texts[job.held_out :], texts[: job.held_out]


def _write_prompts(path: Path, texts: Sequence[str]) -> None:
    path.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
