"""One rank of several trainers: `python sft_rank.py SETTINGS PORT ROWS OUT…`, an update per OUT."""

from __future__ import annotations

import json
import sys

import torch

from raft.updates.sft import SFT


def main(settings: str, port: str, rows: str, *outs: str) -> None:
    torch.set_num_threads(1)
    trainer = SFT(**json.loads(settings))
    trainer.join("127.0.0.1", int(port))
    for seed, out in enumerate(outs):
        print(json.dumps(trainer.train(rows, out, seed)), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
