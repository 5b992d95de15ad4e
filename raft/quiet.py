"""Progress bars and chatter of other libraries, kept out of terminals and logs of ours."""

from __future__ import annotations

import logging
import os
import sys

__all__ = ["quiet_libraries"]


def quiet_libraries() -> None:
    """Progress bars of weight loading and the like belong to no terminal of ours."""
    # a toy policy needs no transformers, and they read these when they are imported
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules or "huggingface_hub" in sys.modules:
        from transformers.utils.logging import disable_progress_bar

        logging.getLogger("transformers").setLevel(logging.ERROR)
        disable_progress_bar()
