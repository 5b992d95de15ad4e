"""One rank of several trainers: `python sft_rank.py SETTINGS PORT ROWS OUT…`, an update per OUT."""

from __future__ import annotations

import json
import sys
from typing import Any

import torch

from raft.config.train import TrainConfig
from raft.updates.sft import SFT

_OF_THE_RANK = ("checkpoint", "rank", "world_size")


def build_sft(model: str, **settings: Any) -> SFT:
    """A trainer from the keys of `train` and those of the rank, side by side."""
    own = {key: settings.pop(key) for key in _OF_THE_RANK if key in settings}
    return SFT(model, TrainConfig(**settings), **own)


def main(settings: str, port: str, rows: str, *outs: str) -> None:
    torch.set_num_threads(1)
    trainer = build_sft(**json.loads(settings))
    trainer.join("127.0.0.1", int(port))
    for seed, out in enumerate(outs):
        print(json.dumps(trainer.train(rows, out, seed)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
