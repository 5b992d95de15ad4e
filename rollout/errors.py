"""Every error a user can meet, each also a standard-library error and picklable across Ray.

`InputError` means that the user's input is wrong: the command line prints its one line and exits
with code 2. The others mean that something broke while the input was right: exit code 1.
"""

import contextlib
from collections.abc import Generator

from rollout.text.printable import printable


class InputError(ValueError):
    """The user's input is wrong. One line says where, what is wrong, and what to do about it.

    Args:
        where: a file and line, a config key, an option with its value, a model folder.
        problem: what is wrong there; another error, where this one adds the place it came from.
        fix: what to do, as a sentence in the imperative; left out where `problem` implies it.
    """

    def __init__(self, where: object, problem: object, fix: str = "") -> None:
        # all three are arguments of the base class: an error travels between Ray's processes
        super().__init__(str(where), str(problem), fix)
        self.where, self.problem, self.fix = str(where), str(problem), fix

    def __str__(self) -> str:
        problem = f"{self.where}: {self.problem}"
        if self.fix:
            problem = f"{problem.rstrip('.')}. {self.fix[:1].upper()}{self.fix[1:]}"
        # paths, columns and what others said stand in it as they are
        return printable(problem)


class EngineError(RuntimeError):
    """A generation engine failed, or was asked for what it cannot do."""


class StaleWeightsError(EngineError):
    """A sample, or an engine after a sync, does not belong to the policy version asked for."""


class WorkerDiedError(RuntimeError):
    """A worker process died more often than it may be replaced."""


@contextlib.contextmanager
def naming(path: object) -> Generator[None]:
    """Give an OSError the name of the file that it is about: a failed `write` knows none."""
    try:
        yield
    except OSError as error:
        error.filename = error.filename or str(path)
        raise
