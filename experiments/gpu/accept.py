"""Checks of one GPU, without vLLM: `python -m experiments.gpu.accept [--tiny] [section …]`.

Run it from the repository's root. Every section runs in a process of its own, so that one that runs
out of memory harms no other, prints a JSON line `{"section", "ok", "seconds", …}`, and has a time
limit. `--tiny` uses small models, for a CPU.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
import traceback
from functools import partial
from pathlib import Path
from typing import Any

from experiments.gpu.models import (
    BIG,
    GIB,
    LOOP,
    ROOT,
    TINY,
    device,
    llama,
    loop_config,
    on_gpu,
    peak_gib,
    reserved_gib,
    saved_policy,
    selected_rows,
    sft,
    timed,
    trees,
)
from raft.updates.trainer import Update

PEAK_FLOPS = 989e12  # of an H100 in bfloat16
Result = dict[str, Any]


def env() -> Result:
    """Return the versions and the GPU, after importing what the other sections need."""
    import inspect

    import accelerate
    import ray
    import torch
    import transformers
    import trl
    from torch.nn.attention import varlen as attention

    import rewards.inference.backbone  # noqa: F401

    libraries = (torch, transformers, trl, accelerate, ray)
    return {
        **{library.__name__: library.__version__ for library in libraries},
        "gpu": torch.cuda.get_device_name() if on_gpu() else None,
        "varlen": list(inspect.signature(attention.varlen_attn).parameters),
    }


def varlen() -> Result:
    """Compare packed attention by one varlen call a layer with a call for each segment: outputs,
    gradients (relative errors below 0.02) and time. On a CPU the kernel is the tests' reference."""
    import torch

    from rewards.inference import packed_attention as packed
    from rewards.inference.prefix_tree import grow

    tree = grow(trees(2, 4, 40, 40, 300) if TINY else trees(8, 8, 200, 400, 30000))
    heads, kv, dim = (2, 1, 32) if TINY else (32, 8, 128)
    dtype, tokens = torch.bfloat16 if on_gpu() else torch.float32, len(tree.ids_T)
    q, k, v = states = [
        torch.randn(1, count, tokens, dim, device=device(), dtype=dtype, requires_grad=True)
        for count in (heads, kv, kv)
    ]
    found: Result = {"tokens": tokens, "segments": len(tree.segments)}
    if not on_gpu():
        import varlen_reference
        from torch.nn.attention import varlen as kernels

        kernels.varlen_attn = varlen_reference.varlen_attn  # type: ignore[assignment]
        found["note"] = "no GPU: varlen_attn is the tests' reference"
    else:
        assert packed._kernel_dtype(q, v, None) is dtype, "the package does not use it"
    plan = packed._Plan(tree, torch.device(device()))
    ways: dict[str, Any] = {
        "old": lambda window: packed._by_segments(plan, q, k, v, dim**-0.5, window, None),
        "varlen": lambda window: packed._in_one_call(plan.sequences, q, k, v, dim**-0.5, window),
    }
    weights = torch.randn(1, tokens, heads, dim, device=device(), dtype=dtype)

    def backward(way: Any, window: int | None) -> list[Any]:
        """Return the output, and the gradients of queries, keys and values."""
        output = way(window)
        return [output.detach(), *torch.autograd.grad(output, states, weights)]

    for window in (None, 24 if TINY else 256):
        pairs = list(zip(*(backward(way, window) for way in ways.values()), strict=True))
        errors = [float((b - a).float().norm() / a.float().norm()) for a, b in pairs]
        found[f"errors_window_{window}"] = [float(f"{error:.2g}") for error in errors]
        assert max(errors) < 2e-2, f"varlen is {errors} away: is its mask aligned at the end?"
    for name, way in ways.items():
        forward, both = partial(way, None), partial(backward, way, None)
        with torch.no_grad():
            forward()
            found[f"{name}_ms"] = round(timed(forward, 3) * 1e3, 2)
        found[f"{name}_train_ms"] = round(timed(both, 3) * 1e3, 2)
    return found


def noise() -> Result:
    """Time a token of the transformers engine's sampler, in 256 rows of GPT-Neo's vocabulary."""
    import torch

    from rollout.engines.transformers import _SeededGumbel

    rows = 8 if TINY else 256
    draw = _SeededGumbel(range(rows))
    scores = torch.zeros(rows, 50257, device=device())
    draw(None, scores)
    seconds = timed(lambda: draw(None, scores))
    return {"rows": rows, "ms_per_token": round(seconds * 1e3, 1)}


def lora_save() -> Result:
    """Merge an 8B policy's adapters as the trainer does, with a peak of less than 20 GiB."""
    import torch
    from peft import LoraConfig, get_peft_model

    from raft.updates.policy import merged_tensors

    lora = LoraConfig(task_type="CAUSAL_LM", r=32, lora_alpha=64, target_modules="all-linear")
    model: Any = get_peft_model(llama(torch.bfloat16, BIG), lora)
    found: Result = {"tensors": 0, "gib": 0.0, "dtypes": set()}

    def merge() -> None:
        for _, tensor in merged_tensors(model):
            assert tensor.device.type == "cpu"
            found["tensors"] += 1
            found["gib"] += tensor.nbytes / GIB
            found["dtypes"].add(str(tensor.dtype))

    seconds, peak = timed(merge), peak_gib()
    assert peak is None or peak < 20, f"{peak} GiB"
    return {
        **found, "dtypes": sorted(found["dtypes"]), "seconds": round(seconds, 2), "peak_gib": peak,
    }  # fmt: skip


def scoring() -> Result:
    """Score with an 8B reward model, packed and padded; then `to("cpu")` must free the GPU."""
    import torch
    from transformers import AutoModelForSequenceClassification, LlamaConfig

    from rewards.inference.backbone import Backbone
    from rewards.inference.prefix_tree import new_tokens, reading_order
    from rewards.inference.transformers import TransformersEngine
    from rewards.models.head import LinearHead

    settings: Any = LlamaConfig
    with torch.device(device()):
        model: Any = AutoModelForSequenceClassification.from_config(
            settings(**BIG, num_labels=1, pad_token_id=2),
            dtype=torch.bfloat16 if on_gpu() else torch.float32,
        )
    backbone = Backbone(model.model, pad_id=2)
    engine = TransformersEngine(backbone, LinearHead([(model.score.weight, None)]))
    size = sum(p.numel() for name, p in model.named_parameters() if "embed" not in name)
    packing = backbone.model.config._attn_implementation
    found: Result = {"layout": backbone.layout, "params_b": round(size / 1e9, 2)}
    for name, shape in {"long": (12, 8, 200, 400), "short": (48, 8, 120, 64)}.items():
        rows = trees(2, 4, 30, 30, 300) if TINY else trees(*shape, 30000)
        names, scores = [str(number) for number in range(len(rows))], {}
        needed = sum(new_tokens(rows, reading_order(rows)))
        for layout in ("packed", "padded"):
            backbone.layout = layout  # type: ignore[assignment]
            backbone.model.set_attn_implementation(packing if layout == "packed" else "sdpa")
            engine.run(rows[:16], names[:16])
            seconds = timed(lambda: scores.update({layout: engine.run(rows, names)["score"]}))  # noqa: B023
            found[f"{name}_{layout}"] = {
                "s": round(seconds, 3),
                "response_tokens_per_s": round(sum(map(len, rows)) / seconds),
                "mfu_of_needed": round(2 * size * needed / seconds / PEAK_FLOPS, 3),
            }
        found[f"{name}_apart"] = float(abs(scores["packed"] - scores["padded"]).max())
    if on_gpu():
        engine.to("cpu")
        found["held_after_to_cpu_gib"] = held = reserved_gib()
        assert held is not None and held < 1, f"{held} GiB"
    return found


def sft_turns() -> Result:
    """Train all of about 1B weights for two updates with a sleep between; resumed, the second has
    the same loss within 1e-4. Return log-probability noise, and the distance of stale weights."""
    import torch

    from rollout.engines.transformers import TransformersEngine

    folder = saved_policy("policy_1b", torch.float32, LOOP)
    rows, ids = selected_rows("rows_1b.jsonl", 32, 20, 60), [0, *range(5, 60)]
    settings: dict[str, Any] = {"learning_rate": 1e-4, "batch_size": 16, "micro_batch_size": 4}
    settings["gradient_checkpointing"] = True
    outs = [str(ROOT / name) for name in "abc"]
    trainer = sft(folder, **settings)
    trainer.train(Update(rows, 0, outs[0]))
    trainer.store(outs[0])
    awake, slept = reserved_gib(), timed(trainer.sleep)
    asleep, woke = reserved_gib(), timed(trainer.wake)
    second = trainer.train(Update(rows, 1, outs[1]))
    mine = trainer.log_probs(ids)
    trainer.sleep()
    del trainer
    again = sft(folder, outs[0], **settings)
    resumed = again.train(Update(rows, 1, outs[2]))
    again.sleep()
    del again
    engine = TransformersEngine(outs[0])
    old = engine.log_probs(ids)
    engine.load_weights(outs[1], 1)
    new = engine.log_probs(ids)

    def apart(a: list[float], b: list[float]) -> float:
        return sum(abs(x - y) for x, y in zip(a, b, strict=True)) / len(a)

    found = {
        "loss": second["train/loss"], "loss_resumed": resumed["train/loss"],
        "awake_gib": awake, "asleep_gib": asleep, "sleep_s": round(slept, 2),
        "wake_s": round(woke, 2), "noise_nats": apart(mine, new), "stale_nats": apart(mine, old),
        "peak_gib": peak_gib(),
    }  # fmt: skip
    assert abs(found["loss"] - found["loss_resumed"]) < 1e-4, found
    return found


def sft_8b_lora() -> Result:
    """Make one LoRA update of an 8B policy; return its time, peak memory, and that of the save."""
    import torch

    folder = saved_policy("policy_8b", torch.bfloat16, BIG)
    rows = selected_rows("rows_8b.jsonl", 32, *((20, 30) if TINY else (200, 600)))
    lora = {"r": 32, "alpha": 64}
    settings: dict[str, Any] = {"learning_rate": 1e-4, "batch_size": 16, "micro_batch_size": 1}
    start = time.perf_counter()
    trainer = sft(folder, gradient_checkpointing=True, lora=lora, **settings)
    loaded = time.perf_counter() - start
    probe, out = trainer.log_probs(list(range(5, 60))), ROOT / "out_8b"
    done = trainer.train(Update(rows, 0, str(out)))
    size = sum(file.stat().st_size for file in out.rglob("*") if file.is_file())
    return {
        "load_s": round(loaded, 1), "train_s": round(done["train/seconds"], 1),
        "save_s": round(done["train/save_seconds"], 1), "loss": done["train/loss"],
        "tokens_per_s": round(done["train/tokens"] / done["train/seconds"]),
        "peak_gib": peak_gib(), "probe_mean": sum(probe) / len(probe),
        "checkpoint_gb": round(size / 1e9, 2),
    }  # fmt: skip


def loop() -> Result:
    """Run `raft run` on Ray with one GPU shared in turn, kill it once and resume it; return the
    largest memory that each process held on the GPU, by nvidia-smi."""
    import torch
    import yaml

    config = ROOT / "run.yaml"
    policy = saved_policy("policy_loop", torch.float32, LOOP)
    config.write_text(yaml.safe_dump(loop_config(policy)))
    command = [sys.executable, "-m", "raft.cli", "run", str(config)]
    most, done = dict[str, int](), threading.Event()

    def watch() -> None:
        query = ["nvidia-smi", "--query-compute-apps=pid,used_memory"]
        while not done.wait(1.0):
            said = subprocess.run(
                [*query, "--format=csv,noheader,nounits"], capture_output=True, text=True
            ).stdout
            for pid, used in (line.split(",") for line in said.splitlines()):
                if used.strip().isdigit():
                    most[pid.strip()] = max(most.get(pid.strip(), 0), int(used))

    if on_gpu():
        threading.Thread(target=watch, daemon=True).start()
    start, pipe = time.perf_counter(), subprocess.PIPE
    first = subprocess.Popen(command, stdout=pipe, stderr=subprocess.STDOUT, text=True)
    written = ROOT / "run/iterations/001/checkpoint"
    while first.poll() is None and time.perf_counter() - start < 120 and not written.is_dir():
        time.sleep(0.5)
    killed = first.poll() is None
    first.kill()
    said = first.communicate()[0][-1500:]
    second = subprocess.run(command, capture_output=True, text=True, timeout=LIMITS["loop"])
    done.set()
    assert second.returncode == 0, (said, second.stdout[-1500:], second.stderr[-2500:])
    metrics = [json.loads(x) for x in (ROOT / "run/metrics.jsonl").read_text().splitlines()]
    times = {key: value for key, value in metrics[-2].items() if key.startswith("time/")}
    return {
        "killed_in_mid_run": killed, "max_mib_by_process": most,
        "rows": [(row["iteration"], row["phase"]) for row in metrics],
        "times": {key: round(value, 1) for key, value in times.items()},
    }  # fmt: skip


# section: seconds; two calls of the first six and of the last two stay under five minutes each
LIMITS = {
    "env": 60, "varlen": 60, "noise": 40, "lora_save": 60, "scoring": 100, "sft_turns": 120,
    "loop": 300, "sft_8b_lora": 200,
}  # fmt: skip


def run_here(name: str) -> Result:
    start = time.perf_counter()
    try:
        found: Result = {"ok": True, **globals()[name]()}
    except Exception as error:  # any error is the section's result
        at = traceback.format_exc().strip().splitlines()[-3:-1]
        said = f"{type(error).__name__}: {str(error)[:700]}"
        found = {"ok": False, "error": said, "at": at}
    return {"section": name, "seconds": round(time.perf_counter() - start, 1), **found}


def run_apart(name: str) -> Result:
    """Run a section in a process of its own, within its time limit (three times it on a CPU)."""
    flags = ["--one", *(["--tiny"] if TINY else [])]
    command = [sys.executable, "-m", "experiments.gpu.accept", *flags, name]
    limit = LIMITS[name] * (3 if TINY else 1)
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return {"section": name, "ok": False, "error": f"over {limit} s"}
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"section"')]
    return json.loads(lines[-1]) if lines else {
        "section": name, "ok": False, "error": done.stderr[-600:],
    }  # fmt: skip


def main() -> None:
    asked = [one for one in sys.argv[1:] if not one.startswith("--")]
    ROOT.mkdir(parents=True, exist_ok=True)
    sys.path.insert(0, str(Path("tests/helpers").resolve()))
    for name in asked or LIMITS:
        print(json.dumps((run_here if "--one" in sys.argv else run_apart)(name)), flush=True)


if __name__ == "__main__":
    main()
