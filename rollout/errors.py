"""The errors a user can meet. Each is also a standard-library error, and Ray can pickle it.

`InputError` means that the user's input is wrong: the command line prints its one line and exits
with code 2. The others mean that something broke while the input was right: exit code 1.
"""

import contextlib
import re
from collections.abc import Generator

from rollout.text.printable import one_line, printable

# how torch and vLLM name an NCCL error, and the place in torch's source that the message contains
_NCCL = re.compile(r"\bNCCL error\b|\bnccl[A-Z]\w*Error\b")
_SOURCE = re.compile(r" in: \S+:\d+,")


class InputError(ValueError):
    """The user's input is wrong. One line says where, what is wrong, and what to do about it.

    Args:
        where: a file and line, a config key, an option with its value, a model folder.
        problem: what is wrong there, or another error, to which this one adds the place.
        fix: what to do, as a sentence in the imperative; empty where `problem` implies it.
    """

    def __init__(self, where: object, problem: object, fix: str = "") -> None:
        # the base class gets all three, so that the error can be unpickled in another Ray process
        super().__init__(str(where), str(problem), fix)
        self.where, self.problem, self.fix = str(where), str(problem), fix

    def __str__(self) -> str:
        problem = f"{self.where}: {self.problem}"
        if self.fix:
            problem = f"{problem.rstrip('.')}. {self.fix[:1].upper()}{self.fix[1:]}"
        # paths, column names and foreign messages in it may hold control characters
        return printable(problem)


class EngineError(RuntimeError):
    """A generation engine failed, or was asked for what it cannot do."""


class StaleWeightsError(EngineError):
    """A sample, or an engine after a sync, does not belong to the policy version asked for."""


class WorkerDiedError(RuntimeError):
    """A worker process died more often than it may be replaced."""


def nccl_failure(error: BaseException, where: str, otherwise: str = "") -> InputError | None:
    """Return a failure of NCCL between GPUs as an InputError; None for any other error.

    Args:
        where: the config key, or the command, that the InputError names as its place.
        otherwise: an alternative that needs no NCCL, in the imperative; it is added to the fix.
    """
    text = str(error)
    if type(error).__name__ != "DistBackendError" and not _NCCL.search(text):
        return None
    said = _SOURCE.sub("", one_line(text))
    fix = "set NCCL_DEBUG=INFO to see more, NCCL_SOCKET_IFNAME to the network between the machines"
    fix += f", or {otherwise}" if otherwise else ""
    return InputError(where, f"the GPUs do not reach each other: {said}", fix)


@contextlib.contextmanager
def naming(path: object) -> Generator[None]:
    """Set `path` as the file name of an OSError of the block that has none, as one of `write`."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
