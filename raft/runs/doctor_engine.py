"""`raft doctor --gpu`: test with a small policy what a run needs of an engine."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raft.monitor.log_probs import Row, log_probs
from raft.workers.weight_check import CheckResult, Probe, log_probs_of
from rewards.doctor.finding import Finding, note, ok, wrong
from rollout.engines.environment import quiet_libraries
from rollout.errors import EngineError, InputError
from rollout.text.printable import one_line
from rollout.types import Prompt, Sampling

if TYPE_CHECKING:
    from rollout.engines.base import Engine

__all__ = ["examine_engine"]


def examine_engine(engine: str = "vllm") -> Iterator[Finding]:
    """Yield findings on an engine that serves a small policy, trained for this test.

    Compared or tried are: log-probabilities with those of transformers, draws of the same seed,
    sleep and wake, new weights.
    """
    quiet_libraries()
    with tempfile.TemporaryDirectory(prefix="raft-doctor-") as made:
        try:
            yield from _examine_engine(engine, Path(made))
        except (InputError, EngineError, ValueError, RuntimeError, ImportError, OSError) as error:
            reason = f"{type(error).__name__}: {one_line(error)}"
            yield wrong("engine", f"{engine} failed: {reason}", "see docs/gpus.md; RAFT_DEBUG=1")


def _examine_engine(name: str, root: Path) -> Iterator[Finding]:
    from transformers import AutoTokenizer

    from raft.demo.corpus import heldout_prompts, texts
    from raft.demo.policy import train_policy
    from rollout.engines.base import build_engine

    tokenizers: Any = AutoTokenizer
    for version in (0, 1):
        train_policy(root / str(version), texts(60, 0), 0, epochs=1 + 2 * version)
    tokenizer = tokenizers.from_pretrained(root / "0")
    rows = [tuple(tokenizer(prompt)["input_ids"]) for prompt in heldout_prompts(8, 0)]
    old, new = (_said_by_transformers(root / str(version), rows) for version in (0, 1))
    start = time.monotonic()
    made, choice = build_engine(str(root / "0"), engine=name, gpu_memory=0.3, can_sleep=True)
    seconds = time.monotonic() - start
    yield ok("engine", f"{choice.name} ready in {seconds:.0f} s, computes in {made.dtype}")
    exact = made.dtype == "float32"
    first = Probe(tuple(rows), old, exact=exact).compare(log_probs_of(made, rows))
    yield _verdict("log-probs", first, "install the versions of requirements/")
    prompts = [Prompt(f"p{n}", "", token_ids=ids) for n, ids in enumerate(rows)]
    draws = [_drawn(made, prompts, seed) for seed in (1, 1, 2)]
    if draws[0] == draws[1] != draws[2]:
        yield ok("draws", "repeat by their seed, and differ by it")
    else:
        yield wrong("draws", "do not go by their seed", "install the versions of requirements/")
    yield _sleep(made, rows)
    if _on_gpu():
        made.sleep(forget=True)
    made.load_weights(str(root / "1"), 1)
    probe = Probe(tuple(rows), new, old, first.noise, exact)
    yield _verdict(
        "new weights", probe.compare(log_probs_of(made, rows)), "install requirements/gpu.txt"
    )


def _sleep(engine: Engine, rows: Sequence[tuple[int, ...]]) -> Finding:
    import torch

    if not _on_gpu():
        return note("sleep", "needs a GPU")
    before, free = log_probs_of(engine, rows), torch.cuda.mem_get_info()[0]
    engine.sleep()
    freed = (torch.cuda.mem_get_info()[0] - free) / 2**30
    engine.wake()
    if log_probs_of(engine, rows) != before:
        return wrong("sleep", "changes the policy", "use cluster.placement: separate")
    if freed <= 0:
        return wrong("sleep", "frees no memory", "use cluster.placement: separate")
    return ok("sleep", f"frees {freed:.1f} GiB, and the policy wakes as it was")


def _on_gpu() -> bool:
    import torch

    return torch.cuda.is_available()


def _verdict(what: str, verdict: CheckResult, fix: str) -> Finding:
    fault = verdict.fault
    return ok(what, f"{verdict}") if fault is None else wrong(what, fault, fix)


def _said_by_transformers(folder: Path, rows: Sequence[tuple[int, ...]]) -> tuple[float, ...]:
    found = log_probs(str(folder), [Row(row) for row in rows], "float32")
    return tuple(float(value) for values in found for value in values)


def _drawn(engine: Engine, prompts: Sequence[Prompt], seed: int) -> dict[str, object]:
    groups = engine.generate(prompts, Sampling(k=2, max_new_tokens=24), seed)
    return {group.prompt.id: [one.token_ids for one in group.completions] for group in groups}
