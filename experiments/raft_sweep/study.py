"""The runs of the sweep: RAFT as on the HH reward model's card, scaled down, one change at a time.

They share the reward model, prompts and pool of the over-optimization study, whose commands run
first where they have not.
"""

from __future__ import annotations

from pathlib import Path

from experiments.overoptimization.study import Paths, Size, draw_pool, make_pairs, train
from experiments.stories.commands import Commands

__all__ = ["GROUPS", "RUNS", "prepare", "run_all"]

_CONFIG = Path(__file__).parents[1] / "overoptimization" / "raft.yaml"
# name -> overrides of K = 8, temperature 1 and a persistent optimizer
RUNS: dict[str, tuple[str, ...]] = {
    "k4": ("sampling.k=4",),
    "k8": (),
    "k16": ("sampling.k=16",),
    "k32": ("sampling.k=32",),
    "t0.7": ("sampling.temperature=0.7", "eval.temperature=1.0"),
    "t1.3": ("sampling.temperature=1.3", "eval.temperature=1.0"),
    "fresh": ("train.optimizer=fresh",),
}
GROUPS = {
    "samples per prompt": ("k4", "k8", "k16", "k32"),
    "temperature of the rollouts": ("t0.7", "k8", "t1.3"),
    "optimizer": ("k8", "fresh"),
}
LABELS = {
    "k4": "K = 4", "k8": "K = 8", "k16": "K = 16", "k32": "K = 32",
    "t0.7": "T = 0.7", "t1.3": "T = 1.3", "fresh": "fresh",
}  # fmt: skip


def prepare(paths: Paths, size: Size) -> None:
    """Make pairs, reward models and the pool for best-of-n."""
    commands = Commands(paths.root)
    make_pairs(paths, size, commands)
    train(paths, commands)
    draw_pool(paths, size, commands)


def run_all(paths: Paths, root: Path, iterations: int, seeds: int, commands: Commands) -> None:
    """Run every setting with every seed."""
    environment = {
        "POLICY_PROMPTS": str(paths.prompts / "train.jsonl"),
        "HELD_OUT_PROMPTS": str(paths.prompts / "held_out.jsonl"),
        "PROXY": str(paths.models / "bt_0_000" / "model"),
    }
    for seed in range(seeds):
        for name, changes in RUNS.items():
            commands.raft(
                f"{name}_{seed}", "run", _CONFIG, f"run_dir={root / f'{name}_{seed}'}",
                f"seed={seed}", f"iterations={iterations}", *changes, environment=environment,
            )  # fmt: skip
