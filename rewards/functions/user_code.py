"""Call a user's own code: whatever it raises becomes an error that names the place.

That includes `sys.exit()`, which would end a command as a success, with its work undone.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
import traceback
from collections.abc import Callable, Iterator

from rewards.types import RewardError
from rollout.errors import InputError
from rollout.text.printable import one_line

__all__ = ["user_code"]


@contextlib.contextmanager
def user_code(error: Callable[[str], Exception]) -> Iterator[None]:
    """Turn an exception of the block into `error(told)`; `told` says what was raised, and where.

    Ctrl-C, `InputError` and `RewardError` pass unchanged. What the block prints goes to standard
    error, unless standard output is redirected already: rows may be written to standard output.
    """
    caller = sys._getframe(2).f_code.co_filename  # the frame of the `with`, above contextlib's
    printed = sys.stderr if sys.stdout is sys.__stdout__ else sys.stdout
    try:
        with contextlib.redirect_stdout(printed):
            yield
    except (KeyboardInterrupt, InputError, RewardError):
        raise
    except BaseException as raised:  # anything may come out of code that is not ours
        raise error(_told(raised, caller)) from raised


def _told(raised: BaseException, caller: str) -> str:
    if isinstance(raised, SystemExit):
        what = f"called sys.exit({'' if raised.code is None else repr(raised.code)})"
    else:
        try:
            text = one_line(raised)
        except KeyboardInterrupt:
            raise
        except BaseException:  # its __str__ is the user's code too
            text = "its text cannot be had"
        what = f"raised {type(raised).__name__}{': ' if text else ''}{text}"
    place = _place(raised, caller)
    return f"{what}, at {place}" if place else what


def _place(raised: BaseException, caller: str) -> str:
    """Return file and line of the last frame in the user's own file; below it are libraries.

    Return "" where there is none.
    """
    frames = traceback.extract_tb(raised.__traceback__)
    called = max((n for n, one in enumerate(frames) if one.filename == caller), default=-1)
    own = [
        one
        for one in frames[called + 1 :]
        if not one.filename.startswith("<frozen") and one.filename != importlib.__file__
    ]
    left = [one for one in own if one.filename == own[0].filename]
    return f"{left[-1].filename}:{left[-1].lineno}" if left else ""
