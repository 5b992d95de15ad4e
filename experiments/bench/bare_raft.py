"""RAFT as one short script: vLLM, word counting, a plain AdamW loop, weights given back in place.

The yardstick of `raft_loop`: no streaming, no Ray, no checks, nothing kept, no resuming.
In-process vLLM on a CPU makes torch.set_num_threads a no-op: OMP_NUM_THREADS rules both.
"""

from __future__ import annotations

import os
import random
from typing import Any

from experiments.bench.job import Job, Points, job_of_command_line, quiet, scores_of
from experiments.bench.job import read_prompts as texts_of
from rewards.evaluation.stats import distinct_n


def main(job: Job) -> None:
    quiet()
    os.environ |= {
        "OMP_NUM_THREADS": str(job.threads),
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    }
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from vllm import LLM

    torch.set_num_threads(job.threads)
    tokenizer: Any = AutoTokenizer.from_pretrained(job.model)
    model = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
    optimizer = torch.optim.AdamW(model.parameters(), lr=job.learning_rate, weight_decay=0.0)
    llm = LLM(
        job.model, dtype="float32", enforce_eager=True, max_num_seqs=1024, use_tqdm_on_load=False
    )
    prompts, held_out = (
        [(text, tokenizer(text)["input_ids"]) for text in texts_of(job, name)]
        for name in ("prompts", "held_out")
    )
    (reward, measure), points, rng = scores_of(job), Points(job), random.Random(job.seed)
    torch.manual_seed(job.seed)
    rng.shuffle(prompts)

    def evaluate(iteration: int) -> None:
        drawn = draw(llm, tokenizer, [ids for _, ids in held_out], job.eval_k, job)
        texts = [text for _, own in drawn for text in own]
        scores = measure([text for text, _ in held_out for _ in range(job.eval_k)], texts)
        points.add(sum(scores) / len(scores), distinct_n(texts, 2), iteration)

    evaluate(0)
    for iteration in range(job.iterations):
        first = iteration * job.prompts % (len(prompts) - job.prompts + 1)
        batch = prompts[first : first + job.prompts]
        best = []
        drawn = draw(llm, tokenizer, [ids for _, ids in batch], job.k, job)
        for (prompt, ids), (answers, texts) in zip(batch, drawn, strict=True):
            rewards = reward([prompt] * job.k, texts)
            best.append((ids, answers[rewards.index(max(rewards))]))
        fine_tune(model, optimizer, best, job, rng)
        weights = list(model.state_dict().items())
        llm.collective_rpc("reload_weights", kwargs={"weights_iterator": weights})
        llm.reset_prefix_cache()
        if (iteration + 1) % job.eval_every == 0 or iteration + 1 == job.iterations:
            evaluate(iteration + 1)


def draw(
    llm: Any, tokenizer: Any, prompts: list[list[int]], k: int, job: Job
) -> list[tuple[list[list[int]], list[str]]]:
    """Draw K responses to each prompt, as ids and as texts."""
    from vllm import SamplingParams

    params = SamplingParams(n=k, temperature=1.0, max_tokens=job.new_tokens, detokenize=False)
    inputs = [{"prompt_token_ids": ids} for ids in prompts]
    drawn = []
    for output in llm.generate(inputs, params, use_tqdm=False):
        answers = [list(one.token_ids) for one in output.outputs]
        texts = tokenizer.batch_decode(answers, skip_special_tokens=True)
        drawn.append((answers, texts))
    return drawn


def fine_tune(
    model: Any, optimizer: Any, rows: list[tuple[list[int], list[int]]], job: Job, rng: Any
) -> None:
    """Minimise cross entropy on the responses, in padded batches, gradient norm clipped at 1."""
    import torch

    model.train()
    for _ in range(job.epochs):
        rng.shuffle(rows)
        for start in range(0, len(rows), job.batch_size):
            batch = rows[start : start + job.batch_size]
            width = max(len(p) + len(a) for p, a in batch)
            ids = torch.zeros((len(batch), width), dtype=torch.long)
            mask, labels = torch.zeros_like(ids), torch.full_like(ids, -100)
            for row, (prompt, answer) in enumerate(batch):
                end = len(prompt) + len(answer)
                ids[row, :end] = torch.tensor(prompt + answer)
                mask[row, :end] = 1
                labels[row, len(prompt) : end] = torch.tensor(answer)
            model(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()


if __name__ == "__main__":
    main(job_of_command_line("experiments.bench.bare_raft", __doc__))
