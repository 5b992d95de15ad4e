"""Every error a user can meet, each also a standard-library error and picklable across Ray.

`InputError` means that the user's input is wrong: the command line prints its one line and exits
with code 2. The others mean that something broke while the input was right: exit code 1.
"""


class InputError(ValueError):
    """The user's input is wrong. The message says what, where, and how to mend it, in one line."""


class EngineError(RuntimeError):
    """A generation engine failed, or was asked for what it cannot do."""


class StaleWeightsError(EngineError):
    """A sample, or an engine after a sync, does not belong to the policy version asked for."""


class WorkerDiedError(RuntimeError):
    """A worker process died more often than it may be replaced."""
