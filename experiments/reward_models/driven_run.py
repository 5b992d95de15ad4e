"""RAFT with a learned reward: the proxy reward and the gold reward side by side.

    openings of stories -> samples of stories260k -> pairs labelled by the gold function
    -> a Bradley–Terry reward model of stories260k -> `raft run` against it, gold beside it
    -> a table and a figure: both means, and how well the proxy still orders the samples

Every command runs once; the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from experiments.data import data
from experiments.reward_models.command import end_well
from experiments.stories.commands import Commands
from experiments.stories.labels import write_pairs
from experiments.stories.prompts import write_openings
from rollout.storage.files import read_json, write_json, write_whole

__all__ = ["Size", "main", "run"]

_HERE = Path(__file__).parent
_TRAINING = _HERE.parent / "stories" / "reward.yaml"
_RUN = _HERE / "stories_cpu.yaml"


@dataclass(frozen=True)
class Size:
    """Number of prompts per use, of samples per prompt, and sizes of the run."""

    train: int = 1600
    test: int = 400
    held_out: int = 128
    samples: int = 4
    iterations: int = 10
    per_iteration: int = 256


def run(folder: Path, size: Size) -> dict[str, Any]:
    """Run everything and write `results.json`, `results.md` and `driven_run.png` to `folder`."""
    from experiments.reward_models.driven_measure import as_markdown, draw, measure

    commands = Commands(folder)
    _make_pairs(folder, size, commands)
    model = folder / "reward_model"
    commands.raft(
        "train", "train-reward", _TRAINING, f"run_dir={model}",
        environment={"PAIRS": str(folder / "train.pairs.jsonl"),
                     "HELD_OUT": str(folder / "test.pairs.jsonl")},
    )  # fmt: skip
    commands.raft(
        "run", "run", _RUN, f"run_dir={folder / 'raft'}", f"reward.model={model / 'model'}",
        f"prompts={{path: '{folder / 'prompts' / 'train.jsonl'}', "
        f"per_iteration: {size.per_iteration}}}",
        f"eval.prompts={folder / 'prompts' / 'held_out.jsonl'}", f"iterations={size.iterations}",
    )  # fmt: skip
    found = {
        "reward_model": read_json(model / "result.json"),
        "iterations": measure(folder / "raft"),
        "seconds": commands.seconds(),
    }
    write_json(folder / "results.json", found)
    write_whole(folder / "results.md", as_markdown(found))
    draw(found["iterations"], folder / "driven_run.png")
    return found


def _make_pairs(folder: Path, size: Size, commands: Commands) -> None:
    prompts = folder / "prompts"
    counts = {"held_out": size.held_out, "test": size.test, "train": size.train}
    write_openings(prompts, counts)
    for name in ("train", "test"):
        samples = folder / f"{name}.samples.jsonl"
        commands.raft(
            f"sample_{name}", "sample", prompts / f"{name}.jsonl",
            "--policy", data("models/stories260k"), "-n", str(size.samples),
            "--max-new-tokens", "64", "--out", samples,
        )  # fmt: skip
        write_pairs(samples, folder / f"{name}.pairs.jsonl", flipped=0.0)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.reward_models.driven_run", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--out", type=Path, default=Path("runs/driven_run"))
    for one in fields(Size):
        parser.add_argument(f"--{one.name.replace('_', '-')}", type=int, default=one.default)
    options = parser.parse_args(arguments)
    size = Size(**{one.name: getattr(options, one.name) for one in fields(Size)})
    folder = options.out.resolve()
    end_well(lambda: _run(folder, size))


def _run(folder: Path, size: Size) -> None:
    run(folder, size)
    print((folder / "results.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
