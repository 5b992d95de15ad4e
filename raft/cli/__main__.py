"""`python -m raft.cli` is the command `raft`, for torchrun and for environments without scripts."""

from raft.cli.main import command

if __name__ == "__main__":
    command()
