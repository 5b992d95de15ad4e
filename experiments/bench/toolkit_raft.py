"""The job of `raft_loop` by the toolkit: `raft.load_config`, `raft.run`, a fresh run folder."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

from experiments.bench.job import Job, Points, job_of_command_line, quiet

_CONFIGS = Path(__file__).parents[2] / "configs"
_POLL_SECONDS = 0.02


def main(job: Job) -> None:
    quiet()
    from raft import load_config, run

    run_dir = Path(job.folder) / "run"
    name = "stories_cpu" if job.update == "sft" else f"stories_{job.update}"
    config = load_config(_CONFIGS / f"{name}.yaml", overrides(job, run_dir))
    measured = "eval/gold_mean" if job.reward_model else "eval/reward_mean"
    watch = Watch(run_dir / "metrics.jsonl", Points(job), measured)
    watch.start()
    run(config)
    watch.finish()


def overrides(job: Job, run_dir: Path) -> list[str]:
    folder = Path(job.folder).resolve()
    values = {
        "run_dir": run_dir,
        "seed": job.seed,
        "iterations": job.iterations,
        "policy.model": job.model,
        "prompts.path": folder / "prompts.jsonl",
        "prompts.separator": "null",
        "prompts.first_words": "null",
        "prompts.per_iteration": job.prompts,
        "sampling.k": job.k,
        "sampling.max_new_tokens": job.new_tokens,
        "eval.prompts": folder / "held_out.jsonl",
        "eval.k": job.eval_k,
        "eval.every": job.eval_every,
        "train.learning_rate": job.learning_rate,
    }
    if job.update == "sft":  # as the bare script; other updates as in their configs
        values |= {"train.epochs": job.epochs, "train.batch_size": job.batch_size}
    if job.reward_model:
        values["reward"] = f"{{kind: model, model: {Path(job.reward_model).resolve()}}}"
        values["gold"] = "{kind: function, function: experiments.stories.gold:gold}"
    return [f"{key}={value}" for key, value in values.items()]


class Watch(threading.Thread):
    """Record when each evaluation reaches metrics.jsonl, so that all work of the loop is timed."""

    def __init__(self, path: Path, points: Points, measured: str) -> None:
        super().__init__(daemon=True)
        self._measured = measured
        self._path = path
        self._points = points
        self._over = threading.Event()

    def run(self) -> None:
        while not self._over.wait(_POLL_SECONDS):
            self._look()
        self._look()

    def finish(self) -> None:
        self._over.set()
        self.join()

    def _look(self) -> None:
        if not self._path.exists():
            return
        now = time.monotonic()
        rows = [json.loads(line) for line in self._path.read_text().splitlines()]
        evals = [row for row in rows if row["phase"] == "eval"]
        for row in evals[len(self._points.points) :]:
            self._points.add(row[self._measured], row["eval/distinct_2"], row["iteration"], now)


if __name__ == "__main__":
    main(job_of_command_line("experiments.bench.toolkit_raft", __doc__))
