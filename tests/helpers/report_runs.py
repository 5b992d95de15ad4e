"""Run folders for the tests of the report, written by hand: any size, any damage, any text."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HOSTILE = "</script><script>window.hacked=1</script><img src=x onerror='window.hacked=2'><!--<b>"


def sample_row(
    identity: str, responses: Sequence[str], scores: Sequence[float | None], **more: Any
) -> dict[str, Any]:
    """A row as `raft run` stores it."""
    return {
        "id": identity,
        "prompt": f"say {identity}",
        "responses": list(responses),
        "scores": list(scores),
        "finish_reasons": ["stop"] * len(responses),
        "policy_version": 0,
        "seeds": list(range(len(responses))),
        "prompt_token_ids": [1, 2],
        "token_ids": [[7] * (k + 1) for k in range(len(responses))],
        **more,
    }


def selected_row(row: dict[str, Any], sample: int, **more: Any) -> dict[str, Any]:
    return {"id": row["id"], "sample": sample, "response": row["responses"][sample], **more}


def write_rows(path: Path, rows: Sequence[Any]) -> None:
    """One line per row; a string is a line as it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("".join(f"{line}\n" for line in lines))


def metrics_of(iteration: int) -> list[dict[str, Any]]:
    held_out = {
        "iteration": iteration, "phase": "eval", "eval/reward_mean": 0.1 * iteration,
        "eval/reward_ci95": 0.05, "eval/best_of_k": 0.3, "time/eval": 1.0, "time/iteration": 9.0,
    }  # fmt: skip
    trained = {
        "iteration": iteration, "phase": "train", "rollout/reward_mean": 0.2, "train/loss": 1.5,
        "time/generate": 4.0, "time/score": 1.0, "time/select": 0.5, "time/train": 1.0,
        "time/sync": 0.5,
    }  # fmt: skip
    return [trained, held_out] if iteration else [held_out]


def write_run(root: Path, iterations: int = 2, prompts: int = 3, k: int = 2) -> Path:
    """A finished run with `prompts` held-out and training prompts in each iteration."""
    root.mkdir(parents=True)
    section = {"kind": "function", "function": "length"}
    config = {"run_dir": str(root), "seed": 1, "iterations": iterations, "reward": section}
    (root / "config.yaml").write_text(json.dumps(config))
    (root / "env.json").write_text(json.dumps({"python": "3.11.1", "packages": {"torch": "2"}}))
    rows = [row for iteration in range(iterations + 1) for row in metrics_of(iteration)]
    write_rows(root / "metrics.jsonl", rows)
    for iteration in range(iterations + 1):
        folder = root / f"iterations/{iteration:03d}"
        write_rows(folder / "eval.jsonl", _rows("held", iteration, prompts, k))
        if iteration:
            drawn = _rows("train", iteration, prompts, k)
            write_rows(folder / "rollouts.jsonl", drawn)
            write_rows(folder / "selected.jsonl", [selected_row(row, k - 1) for row in drawn])
    return root


def _rows(name: str, iteration: int, prompts: int, k: int) -> list[dict[str, Any]]:
    return [
        sample_row(
            f"{name}-{number}",
            [f"answer {iteration}.{number}.{sample}" for sample in range(k)],
            [iteration + number / 10 + sample / 100 for sample in range(k)],
        )
        for number in range(prompts)
    ]
