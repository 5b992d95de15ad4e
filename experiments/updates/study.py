"""The runs of the study: every update at three learning rates with three seeds.

Pairs and the learned reward are made as in the over-optimization study, whose commands run first.
"""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from experiments.overoptimization.study import Paths, Size, make_pairs, train_one
from experiments.stories.commands import Commands
from raft.config.load import load_config
from raft.resources import all_imports
from raft.workers.fork_server import shared_server

__all__ = ["RATES", "REWARDS", "VARIANTS", "Setting", "all_settings", "prepare", "run_all"]

_CONFIG = Path(__file__).with_name("raft.yaml")
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_ALL_RESPONSES = "train.batch_size=64"  # 256 rows instead of 32: four steps a pass
RATES = (1e-4, 3e-4, 1e-3)
REWARDS = ("words", "learned")
# name -> what differs from RAFT (`sft` on the best of 8)
VARIANTS: dict[str, tuple[str, ...]] = {
    "sft": (),
    "weighted": ("train.update=weighted", _ALL_RESPONSES),
    "raft_plus_plus": ("train.update=raft_plus_plus",),
    "raft_plus_plus_unclipped": ("train.update={kind: raft_plus_plus, clip: null}",),
    "reinforce": ("train.update=reinforce", _ALL_RESPONSES, "train.epochs=1"),
    "dpo": ("train.update=dpo",),
    "sft_adaptive": ("sampling.adaptive={first: 4, wave: 2}",),
    "sft_random": ("select.strategy=random",),
}
# those that are no updates of their own are run at one rate
_ONE_RATE = ("sft_adaptive", "sft_random")
_RATE = 3e-4


@dataclass(frozen=True)
class Setting:
    """What a run differs in."""

    reward: str
    variant: str
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.reward}_{self.variant}_{self.rate:g}_{self.seed}"


def all_settings(rewards: Sequence[str], seeds: int) -> Iterator[Setting]:
    """Every run, seed by seed."""
    for seed in range(seeds):
        for reward in rewards:
            for variant in VARIANTS:
                for rate in (_RATE,) if variant in _ONE_RATE else RATES:
                    yield Setting(reward, variant, rate, seed)


def prepare(paths: Paths, commands: Commands) -> None:
    """Make the pairs and train the reward model on clean labels of gold."""
    make_pairs(paths, Size(), commands)
    train_one(paths, commands, "bt_0_000")


def run_all(paths: Paths, root: Path, settings: Iterable[Setting], commands: Commands) -> None:
    """Run these settings, one per core, each on one thread, forked from a process that has the
    libraries loaded."""
    learned = f"reward={{kind: model, model: {paths.models / 'bt_0_000' / 'model'}}}"
    environment = _ONE_THREAD | {
        "POLICY_PROMPTS": str(paths.prompts / "train.jsonl"),
        "HELD_OUT_PROMPTS": str(paths.prompts / "held_out.jsonl"),
    }
    os.environ |= environment  # the config names them
    imports = all_imports(load_config(_CONFIG))

    def run(setting: Setting, python: Sequence[str]) -> None:
        reward = (learned,) if setting.reward == "learned" else ()
        commands.raft(
            setting.name, "run", _CONFIG, f"run_dir={root / setting.name}",
            f"seed={setting.seed}", f"train.learning_rate={setting.rate}",
            *VARIANTS[setting.variant], *reward, environment=environment, python=python,
        )  # fmt: skip

    executor = ThreadPoolExecutor(os.cpu_count())
    with shared_server(imports) as server:
        python = shlex.split(server.command(imports)) if server else [sys.executable]
        try:
            list(executor.map(partial(run, python=python), settings))
        finally:  # one that failed ends the study: none is begun after it
            executor.shutdown(cancel_futures=True)
