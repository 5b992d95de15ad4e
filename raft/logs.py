"""The log on stderr, of the commands and of programs that have none of their own."""

from __future__ import annotations

import logging

from rollout.engines.environment import quiet_libraries, spin_briefly
from rollout.text.printable import printable

__all__ = ["log_for_command", "log_for_program"]

_OURS = ("raft", "rollout", "rewards")


class _Format(logging.Formatter):
    """A message is one line, whatever stands in it; a traceback below it keeps its lines."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(message)s", datefmt="%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:
        record.message = record.message.replace("\r", " ").replace("\n", " ")
        return super().formatMessage(record)

    def format(self, record: logging.LogRecord) -> str:
        return printable(super().format(record))


def log_for_command(*, quiet: bool) -> None:
    """Ours go to stderr, with `quiet` warnings alone, and warnings of all others."""
    _be_good_neighbours()
    logging.basicConfig(level=logging.WARNING, handlers=[_handler()], force=True)
    for name in _OURS:
        logging.getLogger(name).setLevel(logging.WARNING if quiet else logging.INFO)


def log_for_program() -> None:
    """Ours go to stderr, unless the program that calls us has a log or a level of its own."""
    _be_good_neighbours()
    loggers = [logging.getLogger(name) for name in _OURS]
    if any(one.handlers for one in (logging.getLogger(), *loggers)):
        return
    handler = _handler()
    for one in loggers:
        one.addHandler(handler)
        if one.level == logging.NOTSET:
            one.setLevel(logging.INFO)


def _handler() -> logging.Handler:
    handler = logging.StreamHandler()
    handler.setFormatter(_Format())
    return handler


def _be_good_neighbours() -> None:
    quiet_libraries()
    spin_briefly()
