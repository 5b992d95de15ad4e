"""What the process of a command owes those around it: signals, streams, a folder to be in.

Foreign text reaches the terminal through `complain`, the log of `raft.logs` and `print_result` of
`raft.cli.options`, which make it safe.
"""

from __future__ import annotations

import contextlib
import functools
import gc
import io
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from rollout.errors import InputError
from rollout.text.printable import one_line

__all__ = [
    "Ended",
    "Ending",
    "check_directory",
    "complain",
    "discard_stdout",
    "end_quickly",
    "end_soon",
    "reader_is_gone",
    "say_no_more",
    "surroundings",
]

_STDOUT, _STDERR = 1, 2
_STREAMS = ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w"))
_SIGNALS = (signal.SIGTERM, signal.SIGHUP)
# of what a command complains: a server's or a library's own words may be long
_LONGEST = 2000
# in which a command that was told to end does so, unless a library does not let Python run
_GRACE = 10.0


class Ended(KeyboardInterrupt):
    """A signal asked the process to end, which it does as after Ctrl-C, with a code of its own."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


@dataclass(slots=True)
class Ending:
    """How a command ends by a signal: what it says then, and the signal that came."""

    words: str = "interrupted"
    number: int | None = None
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def code(self) -> int:
        return 128 + (self.number or signal.SIGINT)


@contextlib.contextmanager
def surroundings() -> Iterator[Ending]:
    """Signals that end a process end it in good order while the block runs, or in a few seconds
    where a library does not let Python run; streams are usable."""
    _occupy_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # an ASCII terminal gets escapes; so do names of files that are no UTF-8
            stream.reconfigure(errors="backslashreplace")
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    # nohup ignores SIGHUP, and is obeyed
    before = {one: found for one in _SIGNALS if (found := signal.getsignal(one)) is signal.SIG_DFL}
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    waker = signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    threading.Thread(target=_end_late, args=(reader, ending), daemon=True).start()
    try:
        for one in before:
            signal.signal(one, functools.partial(_end, ending))
        yield ending
    finally:
        ending.over.set()
        signal.set_wakeup_fd(waker)
        os.close(writer)  # which ends the thread
        for one, handler in before.items():
            signal.signal(one, handler)


def check_directory() -> None:
    """Raises InputError where the working directory was deleted."""
    try:
        os.getcwd()
    except OSError:
        fix = "change into one that is there"
        raise InputError("the working directory", "is not there any more", fix) from None


def complain(message: str) -> None:
    """One line on stderr, if anybody reads that."""
    with contextlib.suppress(OSError):
        print("raft:", one_line(message, _LONGEST), file=sys.stderr, flush=True)


def reader_is_gone() -> bool:
    """Whether nobody reads stdout any more: `raft … | head`."""
    poll = select.poll()
    poll.register(_STDOUT, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def end_soon(code: int) -> None:
    """End the process in a few seconds if it has not ended by then: threads that wait for a cluster
    which got the signal too would hold up its end for a minute."""

    def end() -> None:
        time.sleep(_GRACE)
        _end_now(code)

    threading.Thread(target=end, daemon=True).start()


def end_quickly() -> None:
    """Have Python end without looking for garbage among all that was imported: of torch and
    transformers that takes more than two seconds.

    Not where functions of users may have run: files that they left open would not be closed.
    """
    resolve = sys.modules.get("rewards.functions.resolve")
    if not getattr(resolve, "users", None):
        gc.freeze()


def say_no_more() -> None:
    """To be registered before all else that is done at the end, so that it is done after it: what
    follows are libraries of C that count what was not collected."""
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)


def discard_stdout() -> None:
    """Point stdout elsewhere: what is still buffered would fail once more when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)


def _end(ending: Ending, number: int, _: object) -> None:
    ending.number = number  # a library may make an interrupt of its own of this one
    raise Ended(number)


def _end_late(reader: int, ending: Ending) -> None:
    """End the process, and what it started, where a signal has not done so after a while: in a
    call of C that waits, for a cluster that got the signal too, Python's handlers do not run."""
    with open(reader, "rb", buffering=0) as numbers:
        while number := numbers.read(1):
            if number[0] not in (*_SIGNALS, signal.SIGINT):
                continue
            if not ending.over.wait(_GRACE):
                complain(ending.words)
                _end_now(128 + number[0])


def _end_now(code: int) -> NoReturn:
    for child in _children():
        with contextlib.suppress(OSError):
            os.kill(child, signal.SIGKILL)
    os._exit(code)


def _children() -> Iterator[int]:
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if path.read_text(errors="replace").rpartition(")")[2].split()[1] == str(os.getpid()):
                yield int(path.parent.name)


# what a fork does not clear: a signal for the child would wake the parent
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def _occupy_descriptors() -> None:
    """Open what was closed for us (`2>&-`): the next file opened would get its number, and whatever
    a library prints would go into that file."""
    closed = [stream for stream in _STREAMS if not _is_open(stream[0])]
    for number, _, _ in closed:  # in order, so that none takes another's number
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
    for _, name, mode in closed:
        # by its name a stream tells that there was none
        setattr(sys, name, open(os.devnull, mode, errors="backslashreplace"))  # noqa: SIM115


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
