"""`python -m raft.cli` is the command `raft`, for torchrun and for environments without scripts."""

import sys

from raft.cli.main import command

if __name__ == "__main__":
    sys.exit(command())
