"""Every way in which an engine can miss an update, made on a real vLLM engine: is it seen?

`python -m experiments.gpu.sync_faults [--model FOLDER] [--dtype bfloat16]`, without `--model` on a
small one, for a CPU. One engine draws responses, the trainer makes an update of all weights and
one of adapters, and then each fault is made in turn and checked as after any update of a run. A
JSON line says of each whether it was caught, by what, and how clearly. Ends with 1 if one was not,
or if an engine without a fault was refused.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.gpu.models import small_policy
from raft.train import rows_of
from raft.updates.trainer import Update
from raft.workers.executors import Resources
from raft.workers.inline_executor import InlineExecutor
from raft.workers.rollout import Policy, RolloutWorkers
from raft.workers.weight_check import Noise, Probe, log_probs_of
from rollout.engines.base import EngineChoice
from rollout.types import InputError, Prompt, Sampling, StaleWeightsError

TEXTS = ["Once upon a time", "The cat", "He said: I am", "One day a bird", "She went home and", "a"]
RANK = 8
Tensors = dict[str, Any]


@dataclass
class Bench:
    """One engine, and the policies that it is given."""

    engine: Any
    start: Path
    full: Path
    lora: Path
    probes: dict[str, Probe]  # of the two updates
    at_start: Probe


class Engine:
    """The one engine as a worker's; `broken`, where given, loads weights in its place."""

    def __init__(self, engine: Any, broken: Callable[[Any, str, int], None] | None = None) -> None:
        self._engine, self._broken = engine, broken

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    def load_weights(self, path: str, version: int) -> None:
        load = self._broken or (lambda engine, *policy: engine.load_weights(*policy))
        load(self._engine, path, version)


class Old(Engine):
    """The engine of a second worker that ignores updates. Both workers share the one engine."""

    def log_probs(self, row: Sequence[int]) -> list[float]:
        if self._engine.version:
            reset(self._engine, self._engine.first)
        return self._engine.log_probs(row)

    def load_weights(self, path: str, version: int) -> None: ...


def reset(engine: Any, start: Path, *, adapters: bool = False) -> None:
    """Load the starting policy into the engine, whatever was loaded before."""
    lora, engine._lora, engine._adapter = engine.lora, None, None
    engine.load_weights(str(start), 0)
    engine._lora = lora if adapters else None


def leave_unpacked() -> None:
    """Have vLLM leave weights as they are, as on a GPU, in this process.

    It packs those of 16 bits on some processors (AMX), where no checksum reads them.
    """
    from rollout.engines.vllm import import_vllm

    import_vllm()
    from vllm import _custom_ops

    _custom_ops._supports_onednn = False


def prepare(root: Path, model: Path, dtype: str, rate: float) -> Bench:
    from raft.config.train import LoraConfig, TrainConfig
    from raft.updates.trainer import build_trainer
    from rollout.engines.base import AdapterSync, build_engine

    leave_unpacked()
    lora = AdapterSync(str(model), RANK, "adapter")
    options: dict[str, Any] = {"engine": "vllm", "dtype": dtype, "gpu_memory": 0.3}
    engine: Any = build_engine(str(model), **options, adapter=lora)[0]
    engine.lora, engine.first = lora, model
    selected = draw(engine, model, root / "selected.jsonl")
    rows = rows_of(selected, 2048)
    probes: dict[str, Probe] = {}
    common: dict[str, Any] = {"batch_size": 4, "micro_batch_size": 4}
    for name, settings in (
        ("full", TrainConfig(learning_rate=rate, **common)),
        ("lora", TrainConfig(learning_rate=10 * rate, lora=LoraConfig(r=RANK), **common)),
    ):
        trainer = build_trainer(str(model), settings)
        old = log_probs_of(trainer, rows)
        trainer.train(Update(str(selected), 0, str(root / name)))
        probes[name] = Probe(rows, log_probs_of(trainer, rows), old, exact=dtype == "float32")
    at_start = replace(probes["full"], new=probes["full"].old or (), old=None)
    noise = at_start.compare(log_probs_of(engine, rows)).noise
    probes = {name: replace(probe, noise=noise) for name, probe in probes.items()}
    return Bench(engine, model, root / "full", root / "lora", probes, at_start)


def draw(engine: Any, model: Path, path: Path) -> Path:
    from transformers import AutoTokenizer

    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    prompts = [
        Prompt(f"p{number}", text, token_ids=tuple(tokenizer(text)["input_ids"]))
        for number, text in enumerate(TEXTS)
    ]
    rows = [
        {
            "id": group.prompt.id, "sample": k, "response": one.text,
            "prompt_token_ids": list(group.prompt.token_ids), "token_ids": list(one.token_ids),
        }
        for group in engine.generate(prompts, Sampling(k=4, max_new_tokens=48), 0)
        for k, one in enumerate(group.completions)
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


# faults in the files of an update


def read(folder: Path) -> Tensors:
    from safetensors.torch import load_file

    found: Tensors = {}
    for file in folder.glob("*.safetensors"):
        found |= load_file(file)
    return found


def with_tensors(bench: Bench, name: str, change: Callable[[str, Any, Any], Any]) -> Path:
    """Return a copy of an update's checkpoint with tensors `change(name, old, new)`.

    A tensor that `change` makes None is removed.
    """
    from safetensors.torch import save_file

    source = bench.full if name == "full" else bench.lora
    out = source.with_name(f"changed-{time.monotonic_ns()}")
    shutil.copytree(source, out, ignore=shutil.ignore_patterns("model*.safetensors*", "*.pt"))
    old, new = read(bench.start), read(source)
    changed = {key: change(key, old.get(key, new[key]), new[key]) for key in new}
    kept = {key: value.contiguous() for key, value in changed.items() if value is not None}
    save_file(kept, out / "model.safetensors", metadata={"format": "pt"})
    return out


def second_of_two(key: str, old: Any, new: Any) -> Any:
    """Return the new tensor, with the half that the second of two GPUs holds at its old value."""
    mixed = new.clone()
    if old.dim() == 2:
        split_by_input = any(part in key for part in ("o_proj", "down_proj"))
        axis = 1 if split_by_input else 0
        half = old.shape[axis] // 2
        mixed.narrow(axis, half, old.shape[axis] - half).copy_(
            old.narrow(axis, half, old.shape[axis] - half)
        )
    return mixed


def scaled_adapter(bench: Bench, factor: float) -> Path:
    """Return a copy of the LoRA update whose adapter counts `factor` times."""
    from safetensors.torch import load_file, save_file

    out = bench.lora.with_name(f"adapter-{factor:g}")
    shutil.copytree(bench.lora, out)
    file = out / "adapter/adapter_model.safetensors"
    tensors = load_file(file)
    changed = {key: value * (factor if "lora_B" in key else 1) for key, value in tensors.items()}
    save_file(changed, file, metadata={"format": "pt"})
    return out


def claim(engine: Any, path: str, version: int) -> None:
    engine.version = version


def instead(changed: Path) -> Callable[[Any, str, int], None]:
    """Return a way to load weights that loads those of `changed` instead of the checkpoint's."""
    return lambda engine, path, version: engine.load_weights(str(changed), version)


# the suite


@dataclass(frozen=True)
class Case:
    name: str
    update: str
    path: Path
    adapters: bool = False
    broken: Callable[[Any, str, int], None] | None = None
    second: bool = False  # a second worker, which keeps the old policy
    resumed: bool = False  # the engine starts on `path`, which should be the update
    fault: bool = True


def cases(bench: Bench) -> Iterator[Case]:
    full, lora = bench.full, bench.lora
    yield Case("none, all weights", "full", full, fault=False)
    yield Case("none, merged adapter", "lora", lora, fault=False)
    yield Case("none, adapter", "lora", lora, adapters=True, fault=False)
    yield Case("none, resumed", "full", full, resumed=True, fault=False)
    yield Case("stale base", "full", full, broken=claim)
    yield Case("adapter never applied", "lora", lora, adapters=True, broken=claim)
    yield Case("adapter twice", "lora", scaled_adapter(bench, 2.0), adapters=True)
    changes: list[tuple[str, str, Callable[[str, Any, Any], Any]]] = [
        ("adapter never merged", "lora", lambda _, old, new: old),
        ("adapter merged twice", "lora", lambda _, old, new: 2 * new - old),
        ("one shard old", "full", second_of_two),
        ("one layer old", "full", lambda key, old, new: old if ".layers.0." in key else new),
    ]
    if "lm_head.weight" in read(full):  # else it is the embedding itself
        head = "head missed, as a tied one is"
        changes.append((head, "full", lambda key, old, new: old if "lm_head" in key else new))
    for name, update, change in changes:
        path, changed = (full if update == "full" else lora), with_tensors(bench, update, change)
        yield Case(name, update, path, broken=instead(changed))
    yield Case("one worker old", "full", full, second=True)
    holes = with_tensors(bench, "full", lambda k, old, new: None if "down_proj" in k else new)
    yield Case("missing tensors", "full", holes)
    yield Case("wrong revision on resume", "full", bench.start, resumed=True)


def check(bench: Bench, case: Case) -> dict[str, Any]:
    start, probe, engine = time.monotonic(), bench.probes[case.update], bench.engine
    reset(engine, bench.start, adapters=case.adapters)
    if case.resumed:
        engine.load_weights(str(case.path), 1)
    hands: Iterator[Any] = iter([Engine(engine, case.broken), Old(engine)])
    choice = EngineChoice("vllm", "of the suite")

    def build(*_: object, **__: object) -> tuple[Any, EngineChoice]:
        return next(hands), choice

    group = RolloutWorkers(
        InlineExecutor(0),
        [Resources()] * (1 + case.second),
        build,
        Policy(str(case.path), 1) if case.resumed else Policy(str(bench.start), 0),
    )
    refused = None
    try:
        if case.resumed:
            group.verify(probe)
        else:
            group.verify(bench.at_start)
            group.sync(Policy(str(case.path), 1, probe))
    except (StaleWeightsError, InputError) as error:
        refused = str(error).rpartition("/")[2]
    verdict = probe.compare(log_probs_of(engine, probe.rows))
    return {
        "fault": case.name,
        "ok": (refused is not None) == case.fault,
        "share_of_update": verdict.share and round(verdict.share, 3),
        "sigmas": round(verdict.sigmas, 1),
        "nats": round(verdict.noise.mean, 5),
        "tolerance": round(probe.tolerance, 5),
        "seconds": round(time.monotonic() - start, 1),
        "refused": refused,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="folder of a policy of the kind of Llama")
    parser.add_argument("--dtype", default="bfloat16", help="of the engine")
    parser.add_argument("--learning-rate", type=float, default=1e-4, help="of the updates")
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(Path("tests/helpers").resolve()))
    with tempfile.TemporaryDirectory(prefix="sync-faults-") as made:
        root = Path(made)
        model = options.model or small_policy(root / "start")
        bench = prepare(root, model, options.dtype, options.learning_rate)
        noise: Noise | None = bench.probes["full"].noise
        tokens = len(bench.at_start.new)
        print(json.dumps({"noise": noise and vars(noise), "tokens": tokens}), flush=True)
        fine = True
        for case in cases(bench):
            found = check(bench, case)
            fine = fine and bool(found["ok"])
            print(json.dumps(found), flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    raise SystemExit(main())
