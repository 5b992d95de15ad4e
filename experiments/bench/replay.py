"""Time a whole `raft replay` for a sweep over K, on a made-up pool of realistic size.

The pool has what a run's rollouts have: texts of 40 to 128 words from a vocabulary with Zipf's
frequencies, token ids, two scores. Required: under 5 s for 2048 prompts × 32 samples.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from experiments.bench.table import spread, table

REQUIRED = 5.0
_WORDS = 20_000
_LENGTHS = (40, 129)


def main(arguments: Sequence[str] | None = None) -> None:
    options = _options(arguments)
    with tempfile.TemporaryDirectory(prefix="raft-bench-") as folder:
        pool = Path(folder) / "pool.jsonl"
        write_pool(pool, options.prompts, options.samples)
        found = measure(pool, Path(folder), options.repeats, options.set)
    found |= {"prompts": options.prompts, "samples": options.samples}
    print(json.dumps(found) if options.json else report(found))


def write_pool(path: Path, prompts: int, samples: int, seed: int = 0) -> None:
    """Write a file of rows like those of a run's rollouts."""
    with open(path, "w", encoding="utf-8") as file:
        for row in rows(prompts, samples, seed):
            file.write(json.dumps(row) + "\n")


def rows(prompts: int, samples: int, seed: int = 0) -> Iterator[dict[str, Any]]:
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(list("abcdefghijklmnop"), 3 + n % 6)) for n in range(_WORDS)]
    for number in range(prompts):
        ids = [_tokens(rng) for _ in range(samples)]
        proxy_N = rng.normal(size=samples)
        gold_N = proxy_N * 0.6 + rng.normal(size=samples)
        yield {
            "id": f"made-{number:06d}",
            "prompt": " ".join(words[token] for token in _tokens(rng)),
            "responses": [" ".join(words[token] for token in one) for one in ids],
            "scores": proxy_N.tolist(),
            "gold_scores": gold_N.tolist(),
            "finish_reasons": ["stop"] * samples,
            "policy_version": 0,
            "seeds": list(range(samples)),
            "prompt_token_ids": _tokens(rng),
            "token_ids": ids,
        }


def measure(pool: Path, folder: Path, repeats: int, more: Sequence[str]) -> dict[str, Any]:
    """Return the command's seconds, start-up included, and its peak memory and input in MiB."""
    line = [sys.executable, "-m", "raft.cli", "replay", str(pool), "--out-dir", str(folder / "out")]
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([*line, *more], check=True, stdout=subprocess.DEVNULL)
        seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    size = pool.stat().st_size / 2**20
    return {"seconds": seconds, "peak_mib": peak, "pool_mib": size}


def report(found: dict[str, Any]) -> str:
    rows = [
        ["seconds, whole command", spread(found["seconds"]), f"< {REQUIRED:g}"],
        ["peak memory, MiB", f"{found['peak_mib']:.0f}", ""],
        ["pool file, MiB", f"{found['pool_mib']:.0f}", ""],
    ]
    head = f"a sweep over K of {found['prompts']} prompts × {found['samples']} samples"
    return f"{head}\n{table(('', 'median', 'required'), rows)}"


def _tokens(rng: np.random.Generator) -> list[int]:
    # a bounded Zipf law: frequencies fall as one over the rank
    length = int(rng.integers(*_LENGTHS))
    return (np.exp(rng.random(length) * np.log(_WORDS)).astype(int) - 1).tolist()


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m experiments.bench.replay", description=__doc__)
    parser.add_argument("--prompts", type=int, default=2048)
    parser.add_argument("--samples", type=int, default=32, help="of each prompt")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--set", nargs=argparse.REMAINDER, default=[], help="more for raft replay")
    parser.add_argument("--json", action="store_true")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main()
