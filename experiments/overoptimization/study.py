"""The commands of the study, in order; each runs once, so that a stopped study can be resumed.

prompts -> pairs labelled by gold, clean and with a quarter of the labels wrong
        -> reward models: three Bradley–Terry seeds, GRM, of each kind of labels
        -> one pool of N samples per held-out prompt, scored by all of them   (best-of-n)
        -> RAFT against each of four proxies, of each kind of labels          (iterations)
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from experiments.stories.commands import Commands
from experiments.stories.labels import write_pairs
from experiments.stories.prompts import write_openings

__all__ = [
    "FLIPPED",
    "PROXIES",
    "Paths",
    "Size",
    "draw_pool",
    "iterate",
    "make_pairs",
    "train",
    "train_one",
]

_HERE = Path(__file__).parent
_REWARD = _HERE.parent / "stories" / "reward.yaml"
_TEMPLATE = _HERE.parent / "stories" / "plain.jinja"
GOLD = "function:experiments.stories.gold:gold"
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
FLIPPED = {"000": 0.0, "025": 0.25}  # in names of files -> share of wrong labels
MEMBERS = ("bt_0", "bt_1", "bt_2")
MODELS = tuple(f"{member}_{noise}" for noise in FLIPPED for member in (*MEMBERS, "grm"))
PROXIES = ("bt", "mean", "min", "grm")


@dataclass(frozen=True)
class Size:
    """Prompts and samples; the defaults take an hour and a half on two cores."""

    train: int = 3200
    test: int = 500
    held_out: int = 128
    samples: int = 4
    n: int = 256
    iterations: int = 8
    per_iteration: int = 256


@dataclass(frozen=True)
class Paths:
    """Paths of a study."""

    root: Path

    @property
    def prompts(self) -> Path:
        return self.root / "prompts"

    @property
    def models(self) -> Path:
        return self.root / "models"

    def pool(self, column: str) -> Path:
        """Return the file of the pool with one column of scores, of gold or of a model."""
        return self.root / f"pool.{column}.jsonl"

    def pairs(self, noise: str) -> Path:
        return self.root / f"pairs_{noise}.jsonl"

    def run(self, proxy: str, noise: str) -> Path:
        return self.root / "raft" / f"{proxy}_{noise}"


def make_pairs(paths: Paths, size: Size, commands: Commands) -> None:
    """Draw samples of the starting policy and label them as pairs, two of a prompt at a time."""
    counts = {"held_out": size.held_out, "test": size.test, "train": size.train}
    write_openings(paths.prompts, counts)
    for name in ("train", "test"):
        commands.raft(
            f"sample_{name}", "sample", paths.prompts / f"{name}.jsonl", "--policy", policy(),
            "-n", str(size.samples), "--max-new-tokens", "64",
            "--out", paths.root / f"{name}.samples.jsonl",
        )  # fmt: skip
    for noise, flipped in FLIPPED.items():
        write_pairs(paths.root / "train.samples.jsonl", paths.pairs(noise), flipped)
    write_pairs(paths.root / "test.samples.jsonl", paths.pairs("test"), 0.0)


def train(paths: Paths, commands: Commands) -> None:
    """Train three Bradley–Terry seeds and a GRM per kind of labels; measure the scale of each."""
    _side_by_side(lambda name: train_one(paths, commands, name))


def train_one(paths: Paths, commands: Commands, name: str) -> None:
    """Train the reward model of that name; measure its scale."""
    member, _, noise = name.rpartition("_")
    # GRM's regulariser must know where a response begins, which only a template shows
    grm = ["recipe=grm", "grm.head_neurons=128", "format=chat", f"chat_template={_TEMPLATE}"]
    folder = paths.models / name
    commands.raft(
        f"train_{name}", "train-reward", _REWARD, f"run_dir={folder}",
        *(grm if member == "grm" else [f"seed={MEMBERS.index(member)}"]),
        environment={
            "PAIRS": str(paths.pairs(noise)), "HELD_OUT": str(paths.pairs("test")), **_ONE_THREAD,
        },
    )  # fmt: skip
    commands.raft(
        f"scale_{name}", "score", paths.root / "test.samples.jsonl", "--reward", folder / "model",
        "--out", paths.models / f"{name}.scored.jsonl", environment=_ONE_THREAD,
    )  # fmt: skip


def draw_pool(paths: Paths, size: Size, commands: Commands) -> None:
    """Draw N samples per held-out prompt; score them by gold and by each reward model."""
    samples = paths.root / "pool.samples.jsonl"
    commands.raft(
        "pool", "sample", paths.prompts / "held_out.jsonl", "--policy", policy(),
        "-n", str(size.n), "--max-new-tokens", "64", "--seed", "1", "--out", samples,
    )  # fmt: skip

    def score(column: str, reward: str | Path) -> None:
        commands.raft(
            f"pool_{column}", "score", samples, "--reward", reward, "--output-column", column,
            "--out", paths.pool(column), environment=_ONE_THREAD,
        )  # fmt: skip

    score("gold", GOLD)
    _side_by_side(lambda name: score(name, paths.models / name / "model"))


def _side_by_side(job: Callable[[str], None]) -> None:
    """Run `job` for each reward model, one per core: small models gain little from threads."""
    executor = ThreadPoolExecutor(os.cpu_count())
    try:
        list(executor.map(job, MODELS))
    finally:  # after a failure no further job is started
        executor.shutdown(cancel_futures=True)


def iterate(paths: Paths, size: Size, commands: Commands) -> None:
    """Run RAFT against each proxy, with gold measured in the same run."""
    common = {
        "POLICY_PROMPTS": str(paths.prompts / "train.jsonl"),
        "HELD_OUT_PROMPTS": str(paths.prompts / "held_out.jsonl"),
        "MODELS": str(paths.models),
    }
    for noise in FLIPPED:
        for proxy in PROXIES:
            ensemble = proxy in ("mean", "min")
            member = "bt_0" if proxy == "bt" else proxy
            own = {"NOISE": noise, "REDUCE": proxy} if ensemble else {
                "PROXY": str(paths.models / f"{member}_{noise}" / "model")
            }  # fmt: skip
            commands.raft(
                f"raft_{proxy}_{noise}", "run",
                _HERE / ("raft_ensemble.yaml" if ensemble else "raft.yaml"),
                f"run_dir={paths.run(proxy, noise)}", f"iterations={size.iterations}",
                f"prompts.per_iteration={size.per_iteration}", environment={**common, **own},
            )  # fmt: skip


def policy() -> str:
    """Return the folder of the starting policy."""
    from experiments.data import data

    return str(data("models/stories260k"))
