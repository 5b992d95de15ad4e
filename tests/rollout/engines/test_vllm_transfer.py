"""Weights that trainers send to vLLM, without a disk between and without a GPU here."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import tiny_models as tiny
import torch
from engine_process import EngineExecutor, EngineProcess
from safetensors.torch import load_file
from sft_rank import build_sft, run_ranks, selected_rows
from shared_memory import SharedMemory, enter_memory, shared, shared_by
from transfer_line import exchanged, sent_by

from raft.config.train import TrainConfig
from raft.updates.trainer import Update, build_trainer
from raft.workers.executors import Resources
from raft.workers.inline_executor import InlineExecutor
from raft.workers.rollout import Policy, RolloutWorkers
from raft.workers.trainer import TrainerWorkers
from raft.workers.weight_check import Probe
from rollout.engines.base import build_engine
from rollout.engines.causal_lm import load_causal_lm
from rollout.engines.vllm_transfer import begin_taking
from rollout.types import InputError, StaleWeightsError

pytestmark = [
    pytest.mark.vllm,
    pytest.mark.skipif(
        importlib.util.find_spec("vllm") is None, reason="vLLM is not installed (extras cpu, gpu)"
    ),
]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("models")
    return {
        f"{family}_{seed}": tiny.checkpoint(root / f"{family}_{seed}", family, seed=seed)
        for family in ("llama", "gpt2")
        for seed in (0, 1)
    }


def engine_of(folders: dict[str, Path], family: str, sync: str) -> EngineProcess:
    """Checksums are read of the first; the second's head is tied, and packed on some CPUs."""
    unpacked = family == "llama"
    path = str(folders[f"{family}_0"])
    return EngineProcess(path, dtype="bfloat16", sync=sync, unpacked=unpacked)


@pytest.fixture(scope="module")
def engines(folders: dict[str, Path]) -> Iterator[dict[str, EngineProcess]]:
    made = {family: engine_of(folders, family, "nccl") for family in ("llama", "gpt2")}
    yield made
    for engine in made.values():
        engine.close()


def receive(engine: Any, folder: str) -> dict[str, Any]:
    """By the line and then from the disk; beside the engine."""
    ids = list(range(5, 40))

    def said() -> tuple[Any, Any]:
        return engine.log_probs(ids), engine.checksums()

    before = said()
    line = exchanged(engine, load_causal_lm(folder, torch.float32), folder, 1)
    found = {"version": engine.version, "before": before, "sent": said(), "ended": line.ended}
    found["met"] = [
        {key: getattr(one, key) for key in ("master_address", "master_port", "world_size")}
        for one in line.met
    ]
    found["offsets"] = [one.rank_offset for one in line.met if hasattr(one, "rank_offset")]
    exchanged(engine, load_causal_lm(folder, torch.float32), folder, 2)  # once more, after another
    engine.load_weights(folder, 3)
    return found | {"loaded": said()}


def without_a_tensor(engine: Any, folder: str) -> str:
    model = load_causal_lm(folder, torch.float32)
    model.get_submodule("model.layers")[0].self_attn.q_proj = torch.nn.Identity()
    try:
        exchanged(engine, model, folder, 4)
    except InputError as error:
        return str(error)
    return ""


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["llama", "gpt2"])  # the second has a tied head
def test_what_is_sent_is_what_the_disk_has(
    engines: dict[str, EngineProcess], folders: dict[str, Path], family: str
) -> None:
    found = engines[family].call(receive, str(folders[f"{family}_1"]))
    (values, sums), loaded = found["sent"], found["loaded"]
    assert values == loaded[0] != found["before"][0]
    assert sums == loaded[1] and (sums or family == "gpt2")
    before = found["before"][1]
    assert all(len(one) > 5 for one in sums)
    kept = [
        name
        for old, now in zip(before, sums, strict=True)
        for name in now
        if old[name] == now[name]
    ]
    assert all("norm" in name or "ln_" in name or "bias" in name for name in kept)  # as they begin
    assert found["version"] == 1 and found["ended"] == 2  # both ends left the group
    place = {"master_address": "10.0.0.1", "master_port": 4242, "world_size": 2}
    assert found["met"] == [place, place] and found["offsets"] == [1]


def test_names_that_files_do_not_have_are_refused(
    engines: dict[str, EngineProcess], folders: dict[str, Path]
) -> None:
    said = engines["llama"].call(without_a_tensor, str(folders["llama_1"]))
    assert "policy.sync" in said and "q_proj" in said and "disk" in said


def take(engine: Any, folder: str) -> dict[str, Any]:
    """Through shared memory, twice, and then from the disk; beside the engine."""
    ids, model = list(range(5, 40)), load_causal_lm(folder, torch.float32)

    def said() -> tuple[Any, Any]:
        return engine.log_probs(ids), engine.checksums()

    before = said()
    memory = shared(engine, model, folder, 1)
    found = {"version": engine.version, "before": before, "shared": said()}
    found["chunks"], found["opened"] = memory.chunks, memory.opened
    for weight in model.parameters():
        weight.data.mul_(0.5)
    shared(engine, model, folder, 2)
    found["halved"] = said()
    shared(engine, load_causal_lm(folder, torch.float32), folder, 3)
    found["again"] = said()
    engine.load_weights(folder, 4)
    return found | {"loaded": said()}


@pytest.mark.thorough
@pytest.mark.parametrize("family", ["llama", "gpt2"])  # the second has a tied head
def test_what_is_shared_is_what_the_disk_has(folders: dict[str, Path], family: str) -> None:
    engine = engine_of(folders, family, "ipc")
    try:
        found = engine.call(take, str(folders[f"{family}_1"]))
    finally:
        engine.close()
    assert found["shared"] == found["again"] == found["loaded"]
    for part in range(2 if family == "llama" else 1):  # log-probabilities and checksums
        assert found["before"][part] != found["shared"][part] != found["halved"][part]
    names = [name for chunk in found["chunks"] for name in chunk.tensors.names]
    saved = load_file(folders[f"{family}_1"] / "model.safetensors")
    assert len(found["chunks"]) > 2 and sorted(names) == sorted(saved)
    # once for all chunks: torch counts, and would never free the buffer
    assert len(found["opened"]) == 1
    assert found["version"] == 1


@pytest.mark.thorough
def test_a_trained_policy_reaches_an_engine_in_another_process(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    """Driver, trainer and engine are those of a run."""
    start, out = str(folders["llama_0"]), str(tmp_path / "out")
    engine = EngineProcess(start, dtype="float32", sync="ipc")
    settings = TrainConfig(learning_rate=1e-3, batch_size=4)
    try:
        engine.call(enter_memory)
        executor: Any = EngineExecutor(engine)
        engines = RolloutWorkers(executor, [Resources()], build_engine, Policy(start, 0))
        build = partial(build_trainer, start, settings)
        with tiny.one_thread():
            trainers = TrainerWorkers(InlineExecutor(), [Resources()], build, None)
            rows = (tuple(range(5, 40)),)
            before = trainers.read(rows)
            trainers.train(Update(str(selected_rows(tmp_path / "rows.jsonl")), 0, out))
            probe = Probe(rows, trainers.read(rows), before)
            with SharedMemory().laid():
                (verdict,) = engines.sync(Policy(out, 1, probe), trainers, shares=True)
            trainers.train(Update(str(tmp_path / "rows.jsonl"), 1, str(tmp_path / "next")))
        assert verdict.noise.mean < 1e-5 < probe.compare(before).noise.mean
        with pytest.raises(StaleWeightsError):
            engines.verify(Probe(rows, trainers.read(rows), probe.new))
    finally:
        engine.close()


def test_names_that_files_do_not_have_are_refused_before_an_engine_is_touched(
    folders: dict[str, Path],
) -> None:
    llm: Any = None
    names = sorted(load_file(folders["llama_0"] / "model.safetensors"))
    with pytest.raises(InputError, match=rf"policy\.sync: ipc: .*{names[3]}.*disk"):
        begin_taking(llm, str(folders["llama_0"]), [*names[:3], *names[4:]])


def test_trainers_send_and_share_the_policy_that_they_have_saved(tmp_path: Path) -> None:
    start = str(tiny.checkpoint(tmp_path / "start", "gpt2"))
    rows = selected_rows(tmp_path / "selected.jsonl")
    with tiny.one_thread():
        trainer = build_sft(model=start, learning_rate=1e-3, batch_size=4)
        trainer.train(Update(str(rows), 0, str(tmp_path / "out")))
        sent, by_memory = sent_by(trainer, "bfloat16"), shared_by(trainer, "bfloat16")
    saved = load_file(tmp_path / "out/model.safetensors")
    # the tied head once, by its first name
    assert sent.keys() == by_memory.keys() == saved.keys()
    for name, value in sent.items():
        assert value.dtype == torch.bfloat16 and torch.equal(value, saved[name].bfloat16())
        assert value.dtype == by_memory[name].dtype and torch.equal(value, by_memory[name])


@pytest.mark.thorough
@pytest.mark.slow
def test_shards_are_gathered_by_all_and_sent_by_one_or_shared_by_all(tmp_path: Path) -> None:
    start = str(tiny.checkpoint(tmp_path / "start", "llama"))
    rows = selected_rows(tmp_path / "selected.jsonl")
    settings: dict[str, Any] = {"model": start, "learning_rate": 1e-3, "batch_size": 4}
    outs = [str(tmp_path / f"out-{number}") for number in range(2)]
    settings |= {"fsdp": True, "sends": "bfloat16", "shares": "bfloat16"}
    ranks = run_ranks(settings, rows, outs, probe=[5, 6, 7])
    for number, out in enumerate(outs):  # and training goes on after it
        first, second = (rank[number]["sent"] for rank in ranks)
        saved = load_file(Path(out) / "model.safetensors")
        assert second == {} and first.keys() == saved.keys()
        for name, value in saved.items():
            for found in (first, *(rank[number]["shared"] for rank in ranks)):
                assert torch.equal(torch.tensor(found[name]), value.bfloat16().float())


@pytest.mark.thorough
def test_the_calls_are_those_that_vllm_takes() -> None:
    # a release of another shape shows here, without a GPU
    from vllm import LLM
    from vllm.config.weight_transfer import WeightTransferConfig
    from vllm.distributed.weight_transfer import base, ipc_engine, nccl_engine, packed_tensor
    from vllm.engine.arg_utils import EngineArgs

    assert "weight_transfer_config" in inspect.signature(EngineArgs).parameters
    assert WeightTransferConfig(backend="nccl").backend == "nccl"
    lifecycle = ("init_weight_transfer_engine", "start_weight_update", "update_weights",
                 "finish_weight_update", "shutdown_weight_transfer_engine")  # fmt: skip
    assert all(callable(getattr(LLM, name)) for name in lifecycle)
    info = nccl_engine.NCCLTrainerInitInfo(
        rank=1, master_address="a", master_port=1, world_size=2, packed=False
    )
    assert not info.is_sender and info.backend == "nccl"
    fields = {one.name for one in dataclasses.fields(nccl_engine.NCCLWeightTransferUpdateInfo)}
    assert fields == {"names", "dtype_names", "shapes"}
    assert [one.name for one in dataclasses.fields(base.ParamMeta)] == ["name", "dtype", "shape"]
    assert WeightTransferConfig(backend="ipc").backend == "ipc"
    assert ipc_engine.IPCWeightTransferInitInfo(packed=True).packed
    fields = {one.name for one in dataclasses.fields(ipc_engine.IPCWeightTransferUpdateInfo)}
    assert fields >= {"names", "dtype_names", "shapes", "tensor_sizes", "ipc_handles"}
    given = list(inspect.signature(packed_tensor.packed_ipc_producer).parameters)
    assert given == ["iterator", "gpu_uuid", "post_iter_func", "buffer_size_bytes"]
    fields = {one.name for one in dataclasses.fields(packed_tensor.PackedIpcChunk)}
    assert fields == {"names", "shapes", "dtype_names", "tensor_sizes", "ipc_handle"}
