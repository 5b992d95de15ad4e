"""Where the ranks of a group of trainers meet, as torch.distributed wants to be told."""

from __future__ import annotations

import os
import socket


def rendezvous_address() -> tuple[str, int]:
    """The address by which other machines reach this one, and a free port of it."""
    return _own_address(), _free_port()


def set_torchrun_env(host: str, port: int, rank: int, world_size: int) -> None:
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": "0",  # every rank sees one device of its own
        "WORLD_SIZE": str(world_size),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }


def _own_address() -> str:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # sends nothing: it only looks up the route
            return probe.getsockname()[0]
        except OSError:  # no route but to itself
            return "127.0.0.1"


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]
