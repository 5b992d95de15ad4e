"""Make other libraries quiet on the terminal, their idle threads release the cores, and their
objects cost no garbage collection."""

from __future__ import annotations

import gc
import logging
import os
import sys
import warnings

__all__ = [
    "exempt_from_collection",
    "prepare_vllm",
    "quiet_libraries",
    "spin_briefly",
    "spin_count",
]

# idle threads that spin long occupy cores that others need: beside a busy scorer, vLLM on two cores
# then generates at a fifth of its speed. Without any spinning it loses a tenth of its speed when it
# is alone; with this count it loses neither
_SPIN_COUNT = "1000"

_CPU_ENVIRONMENT = {
    # the engine in our own process: ready in 6 s instead of 33 s
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    # GiB; unset, vLLM plans for nearly all of the machine's memory
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_LOGGING_LEVEL": "ERROR",
}
# without a process for the engine, its workers on several GPUs end with this process; otherwise
# that process, and so the workers, would survive when this one is killed
_GPU_ENVIRONMENT = {"VLLM_ENABLE_V1_MULTIPROCESSING": "0", "VLLM_LOGGING_LEVEL": "ERROR"}


def quiet_libraries() -> None:
    """Turn off the progress bars and warnings of transformers and the hub's client."""
    # the libraries read these at import; they are not imported here, as a toy policy needs neither
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if "transformers" in sys.modules or "huggingface_hub" in sys.modules:
        from transformers.utils.logging import disable_progress_bar

        logging.getLogger("transformers").setLevel(logging.ERROR)
        disable_progress_bar()


def prepare_vllm(*, on_gpu: bool) -> None:
    """Set the environment variables that vLLM reads, where the user has not, and keep it quiet.

    It sets up its own log with the first engine, after it has warned of what is not there.
    """
    for key, value in (_GPU_ENVIRONMENT if on_gpu else _CPU_ENVIRONMENT).items():
        os.environ.setdefault(key, value)
    logging.getLogger("vllm").setLevel(os.environ["VLLM_LOGGING_LEVEL"])
    warnings.filterwarnings("ignore", category=FutureWarning, module="vllm")


def exempt_from_collection() -> None:
    """Collect garbage, and exempt what is left from later collections.

    The libraries' half a million objects stay: each collection would spend 0.2 to 0.4 s on them,
    and accelerate makes one at the end of every update.
    """
    gc.collect()
    gc.freeze()


def spin_count() -> str:
    """Return how long idle OpenMP threads spin: the user's GOMP_SPINCOUNT, else a short while."""
    return os.environ.get("GOMP_SPINCOUNT", _SPIN_COUNT)


def spin_briefly() -> None:
    """Set GOMP_SPINCOUNT; call it before torch is imported, which is when OpenMP reads it."""
    os.environ["GOMP_SPINCOUNT"] = spin_count()
