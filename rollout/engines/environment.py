"""Other libraries made good neighbours: of our terminal, and of what else runs on the machine."""

from __future__ import annotations

import logging
import os
import sys

__all__ = ["quiet_libraries", "spin_briefly", "spin_count"]

# idle threads that spin long take the cores of whoever works beside them: with a scorer at work,
# vLLM on two cores then generates at a fifth of its speed. Not spinning at all costs it a tenth
# when it is alone; a short while costs neither
_SPIN_COUNT = "1000"


def quiet_libraries() -> None:
    """Progress bars of weight loading and the like belong to no terminal of ours."""
    # a toy policy needs no transformers, and they read these when they are imported
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules or "huggingface_hub" in sys.modules:
        from transformers.utils.logging import disable_progress_bar

        logging.getLogger("transformers").setLevel(logging.ERROR)
        disable_progress_bar()


def spin_count() -> str:
    """How long idle threads spin: as the user says, else briefly."""
    return os.environ.get("GOMP_SPINCOUNT", _SPIN_COUNT)


def spin_briefly() -> None:
    """Before torch is imported: OpenMP reads it then."""
    os.environ["GOMP_SPINCOUNT"] = spin_count()
