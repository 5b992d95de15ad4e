"""The commands of `raft` as Python functions; the command line parses options and calls these.

Each function shows its progress on stderr, unless the program has configured a log of its own, and
returns a result object with a method `to_pandas()`.
"""
