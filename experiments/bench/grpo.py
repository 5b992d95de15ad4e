"""The job of `raft_loop` by TRL's GRPOTrainer with transformers generation, until the target.

Its held-out reward is taken every few steps: between far points, straight lines mislead.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from experiments.bench.job import Job, Points, Scores, job_of_command_line, quiet, scores_of
from experiments.bench.job import read_prompts as texts_of
from rewards.evaluation.stats import distinct_n


def main(job: Job) -> None:
    quiet()
    import torch
    from datasets import Dataset
    from transformers import AutoTokenizer, PrinterCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    torch.set_num_threads(job.threads)
    tokenizer: Any = AutoTokenizer.from_pretrained(job.model, padding_side="left")
    reward, measure = scores_of(job)
    texts = texts_of(job, "prompts")
    random.Random(job.seed).shuffle(texts)

    def scores(prompts: list[str], completions: list[str], **_: Any) -> list[float | None]:
        return [*reward(prompts, completions)]

    trainer = GRPOTrainer(
        model=job.model,
        reward_funcs=scores,
        args=GRPOConfig(**_settings(job)),
        train_dataset=Dataset.from_list([{"prompt": text} for text in texts]),
        processing_class=tokenizer,
    )
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(_held_out(job, tokenizer, measure))
    trainer.train()


def _settings(job: Job) -> dict[str, Any]:
    return {
        "output_dir": str(Path(job.folder) / "grpo"),
        "seed": job.seed,
        "max_steps": 100_000,
        "learning_rate": job.learning_rate,
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": job.prompts * job.k,
        "num_generations": job.k,
        "max_completion_length": job.new_tokens,
        "temperature": 1.0,
        "beta": 0.0,
        "use_cpu": True,
        "bf16": False,
        "gradient_checkpointing": False,
        "model_init_kwargs": {"dtype": "float32"},
        "save_strategy": "no",
        "logging_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
    }


def _held_out(job: Job, tokenizer: Any, measure: Scores) -> Any:
    """Return a callback that evaluates at intervals and stops at the target or the time limit."""
    from transformers import TrainerCallback

    texts = texts_of(job, "held_out")
    points = Points(job)

    class HeldOut(TrainerCallback):
        def on_train_begin(
            self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
        ) -> None:
            points.add(*evaluate(model, tokenizer, texts, job, measure), 0)

        def on_step_end(
            self, args: Any, state: Any, control: Any, model: Any = None, **_: Any
        ) -> None:
            if state.global_step % job.eval_every:
                return
            points.add(*evaluate(model, tokenizer, texts, job, measure), state.global_step)
            best = points.points[-1][1]
            control.should_training_stop = best >= job.target or points.seconds > job.time_limit

    return HeldOut()


def evaluate(
    model: Any, tokenizer: Any, texts: list[str], job: Job, measure: Scores
) -> tuple[float, float]:
    """Return the mean of `measure` on held-out samples, and their distinct_2."""
    import torch

    was_training = model.training
    model.eval()
    batch = tokenizer(texts, return_tensors="pt", padding=True, padding_side="left")
    with torch.inference_mode():
        drawn = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            do_sample=True,
            temperature=1.0,
            top_k=0,
            num_return_sequences=job.eval_k,
            max_new_tokens=job.new_tokens,
        )
    model.train(was_training)
    answers = drawn[:, batch["input_ids"].shape[1] :]
    decoded = tokenizer.batch_decode(answers, skip_special_tokens=True)
    scores = measure([text for text in texts for _ in range(job.eval_k)], decoded)
    return sum(scores) / len(scores), distinct_n(decoded, 2)


if __name__ == "__main__":
    main(job_of_command_line("experiments.bench.grpo", __doc__))
