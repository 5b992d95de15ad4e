"""The process of a command: its signals, its standard streams and its working directory.

Text from files and servers reaches the terminal only through `complain`, the log of `raft.logs` and
`print_result` of `raft.cli.options`, which escape control characters.
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
# most characters of an error: a server's or a library's message may be long
_LONGEST = 2000
# seconds that a command has to end after a signal, before its process is killed
_GRACE = 10.0


class Ended(KeyboardInterrupt):
    """Raised where a signal asks the process to end: handled as Ctrl-C, with another exit code."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.code = 128 + number


@dataclass(slots=True)
class Ending:
    """How a command ends by a signal: the words that it prints, and the signal's number."""

    words: str = "interrupted"
    number: int | None = None
    over: threading.Event = field(default_factory=threading.Event)

    @property
    def code(self) -> int:
        return 128 + (self.number or signal.SIGINT)


@contextlib.contextmanager
def surroundings() -> Iterator[Ending]:
    """Hold signal handlers and usable standard streams while the block runs.

    SIGTERM and SIGHUP raise `Ended` in the block, so that it is left in good order. Where a library
    does not let Python run, the process is killed `_GRACE` seconds after the signal.
    """
    _occupy_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            # escape what the terminal's encoding lacks, and file names that are not UTF-8
            stream.reconfigure(errors="backslashreplace")
    ending = Ending()
    if threading.current_thread() is not threading.main_thread():
        yield ending
        return
    # only signals with the default action: SIGHUP stays ignored under nohup
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
        os.close(writer)  # ends the thread, which reads the other end
        for one, handler in before.items():
            signal.signal(one, handler)


def check_directory() -> None:
    """Check that the working directory exists. Raises InputError where it was deleted."""
    try:
        os.getcwd()
    except OSError:
        fix = "change into one that is there"
        raise InputError("the working directory", "is not there any more", fix) from None


def complain(message: str) -> None:
    """Print a message as one line on stderr; do nothing where stderr cannot be written."""
    with contextlib.suppress(OSError):
        print("raft:", one_line(message, _LONGEST), file=sys.stderr, flush=True)


def reader_is_gone() -> bool:
    """Return whether stdout is a pipe that nobody reads any more, as in `raft … | head`."""
    poll = select.poll()
    poll.register(_STDOUT, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def end_soon(code: int) -> None:
    """Kill the process after `_GRACE` seconds if it has not ended by then.

    Threads that wait for a cluster which got the same signal would delay the end by a minute.
    """

    def end() -> None:
        time.sleep(_GRACE)
        _end_now(code)

    threading.Thread(target=end, daemon=True).start()


def end_quickly() -> None:
    """Let Python end without a garbage collection, which with torch imported takes two seconds.

    Nothing is done where functions of users may have run: files that they left open would not be
    closed.
    """
    resolve = sys.modules.get("rewards.functions.resolve")
    if not getattr(resolve, "users", None):
        gc.freeze()


def say_no_more() -> None:
    """Point stderr at the null device, to hide what C libraries print when the process ends.

    They count objects that were not collected. Register it with `atexit` before all other
    functions: the first one registered runs last.
    """
    sys.stderr.flush()
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDERR)


def discard_stdout() -> None:
    """Point stdout at the null device: what is buffered would fail once more when Python exits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), _STDOUT)


def _end(ending: Ending, number: int, _: object) -> None:
    ending.number = number  # a library may raise a plain KeyboardInterrupt in place of `Ended`
    raise Ended(number)


def _end_late(reader: int, ending: Ending) -> None:
    """Kill the process and its children where it has not ended `_GRACE` seconds after a signal.

    Python's signal handlers do not run during a call of C, such as one that waits for a cluster
    which got the signal too. This thread reads the signals' numbers from the wakeup pipe `reader`.
    """
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


# a forked child inherits the wakeup pipe, and would report its own signals to the parent
os.register_at_fork(after_in_child=lambda: signal.set_wakeup_fd(-1))


def _occupy_descriptors() -> None:
    """Open the null device for each standard stream that was closed by the caller (`2>&-`).

    Otherwise the next file that is opened would get the stream's descriptor, and whatever a library
    prints would be written into that file.
    """
    closed = [stream for stream in _STREAMS if not _is_open(stream[0])]
    for number, _, _ in closed:  # in rising order, so that none takes the descriptor of another
        opened = os.open(os.devnull, os.O_RDWR)
        if opened != number:
            os.dup2(opened, number)
            os.close(opened)
        os.set_inheritable(number, True)
    for _, name, mode in closed:
        # the stream's name, /dev/null, shows that there was none
        setattr(sys, name, open(os.devnull, mode, errors="backslashreplace"))  # noqa: SIM115


def _is_open(descriptor: int) -> bool:
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True
