"""The runs of the study: updates or sizes of batches, at three learning rates, with three seeds.

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

__all__ = [
    "GRIDS",
    "RATES",
    "REWARDS",
    "Setting",
    "Variant",
    "all_settings",
    "prepare",
    "run_all",
]

_CONFIG = Path(__file__).with_name("raft.yaml")
_ONE_THREAD = {"OMP_NUM_THREADS": "1"}
_ALL_RESPONSES = "train.batch_size=64"  # 256 rows instead of 32: four steps a pass
RATES = (1e-4, 3e-4, 1e-3)
REWARDS = ("words", "learned")
_K = 8


@dataclass(frozen=True)
class Variant:
    """Changes to RAFT by `sft` on the best of 8 responses to 32 prompts, and the learning rates."""

    overrides: tuple[str, ...] = ()
    prompts: int = 32
    rates: tuple[float, ...] = RATES

    @property
    def samples(self) -> int:
        """Samples of an iteration, or their average where K is adaptive."""
        return self.prompts * _K


_UPDATES = {
    "sft": Variant(),
    "weighted": Variant(("train.update=weighted", _ALL_RESPONSES)),
    "raft_plus_plus": Variant(("train.update=raft_plus_plus",)),
    "raft_plus_plus_unclipped": Variant(("train.update={kind: raft_plus_plus, clip: null}",)),
    "reinforce": Variant(("train.update=reinforce", _ALL_RESPONSES, "train.epochs=1")),
    "dpo": Variant(("train.update=dpo",)),
    # these change the sampling or the selection, and train with `sft`
    "sft_adaptive": Variant(("sampling.adaptive={first: 4, wave: 2}",), rates=(3e-4,)),
    "sft_random": Variant(("select.strategy=random",), rates=(3e-4,)),
}


def _of_batch(prompts: int, epochs: int) -> Variant:
    """Return a variant of 2,048 samples in batches of `prompts` prompts.

    It is evaluated every 512 samples, or every batch where that is larger.
    """
    iterations, every = 2048 // (prompts * _K), max(1, 512 // (prompts * _K))
    size = f"prompts.per_iteration={prompts}"
    return Variant(
        (size, f"iterations={iterations}", f"eval.every={every}", f"train.epochs={epochs}"), prompts
    )


_BATCHES = {
    f"{prompts}_prompts_{epochs}_epochs": _of_batch(prompts, epochs)
    for prompts in (16, 32, 64, 128)
    for epochs in (1, 2)
}
GRIDS = {"updates": _UPDATES, "batches": _BATCHES}


@dataclass(frozen=True)
class Setting:
    """The settings in which the runs of the study differ."""

    reward: str
    label: str
    variant: Variant
    rate: float
    seed: int

    @property
    def name(self) -> str:
        return f"{self.reward}_{self.label}_{self.rate:g}_{self.seed}"


def all_settings(grid: str, rewards: Sequence[str], seeds: int) -> Iterator[Setting]:
    """Yield the settings of every run, seed by seed."""
    for seed in range(seeds):
        for reward in rewards:
            for label, variant in GRIDS[grid].items():
                for rate in variant.rates:
                    yield Setting(reward, label, variant, rate, seed)


def prepare(paths: Paths, commands: Commands) -> None:
    """Make the pairs and train the reward model on clean labels of gold."""
    make_pairs(paths, Size(), commands)
    train_one(paths, commands, "bt_0_000")


def run_all(paths: Paths, root: Path, settings: Iterable[Setting], commands: Commands) -> None:
    """Run these settings, one per core, each on one thread.

    Runs are forked from a process that has the libraries loaded, where that is possible.
    """
    learned = f"reward={{kind: model, model: {paths.models / 'bt_0_000' / 'model'}}}"
    environment = _ONE_THREAD | {
        "POLICY_PROMPTS": str(paths.prompts / "train.jsonl"),
        "HELD_OUT_PROMPTS": str(paths.prompts / "held_out.jsonl"),
    }
    os.environ |= environment  # the config refers to these variables
    imports = all_imports(load_config(_CONFIG))

    def run(setting: Setting, python: Sequence[str]) -> None:
        reward = (learned,) if setting.reward == "learned" else ()
        commands.raft(
            setting.name, "run", _CONFIG, f"run_dir={root / setting.name}",
            f"seed={setting.seed}", f"train.learning_rate={setting.rate}",
            *setting.variant.overrides, *reward, environment=environment, python=python,
        )  # fmt: skip

    executor = ThreadPoolExecutor(os.cpu_count())
    with shared_server(imports) as server:
        python = shlex.split(server.command(imports)) if server else [sys.executable]
        try:
            list(executor.map(partial(run, python=python), settings))
        finally:  # after a failure no further run is started
            executor.shutdown(cancel_futures=True)
