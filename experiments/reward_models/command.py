"""Exit codes like those of `raft`: 2 with one line for wrong input, 130 for an interrupt."""

from __future__ import annotations

import sys
from collections.abc import Callable

from rewards.types import RewardError
from rollout.engines.environment import quiet_libraries, spin_briefly
from rollout.errors import InputError

__all__ = ["end_well"]


def end_well(work: Callable[[], None]) -> None:
    """Run `work`, before torch is imported.

    Raises SystemExit(2) for an InputError or RewardError, SystemExit(130) for an interrupt.
    """
    quiet_libraries()
    spin_briefly()
    try:
        work()
    except (InputError, RewardError) as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from here", file=sys.stderr)
        raise SystemExit(130) from None
