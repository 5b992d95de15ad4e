"""`python -m raft.cli`: the command `raft`, for torchrun and where no script is installed."""

import sys

from raft.cli.main import command

if __name__ == "__main__":
    sys.exit(command())
