"""`raft report`: one self-contained HTML file about a run, made to be read and passed on."""

from raft.report.write import write_report

__all__ = ["write_report"]
