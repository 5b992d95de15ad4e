"""What a machine with GPUs is told and given, on one without: devices, dtypes and memory."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import toy_runs

import raft.runs.check
import raft.workers.inline_executor
from raft.loop import run
from raft.resources import place_workers, with_gpu_memory
from raft.runs.check import _check_gpus
from raft.updates.toy import ToyTrainer
from raft.workers.executors import Resources
from raft.workers.inline_executor import InlineExecutor
from rewards.spec_reader import read_reward
from rollout.engines.base import AdapterSync, EngineChoice, build_engine
from rollout.engines.toy import ToyEngine
from rollout.engines.vllm_checks import (
    check_complete,
    memory_as_input_error,
    options_as_input_error,
    tensor_names,
)
from rollout.types import InputError, StaleWeightsError

HIDDEN = ("CUDA_VISIBLE_DEVICES", "")


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four GPUs, as far as device files and torch's count of what is visible tell."""
    for module in (raft.workers.inline_executor, raft.runs.check):
        monkeypatch.setattr(module, "machine_gpus", lambda: 4)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(visible()))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def visible() -> list[str]:
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    return [one for one in named.split(",") if one]


# devices


@pytest.mark.usefixtures("gpus")
@pytest.mark.parametrize(
    ("before", "wanted", "inside"),
    [(None, None, ["0"]), ("2,3", None, ["2"]), ("2,3", 1, ["2"]), ("2", 0, []), ("", None, [])],
)
def test_one_process_uses_one_gpu_or_none(
    monkeypatch: pytest.MonkeyPatch, before: str | None, wanted: int | None, inside: list[str]
) -> None:
    # a second one that the trainer sees would be refused by its library
    if before is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", before)
    executor = InlineExecutor(wanted)
    assert visible() == inside and executor.gpus() == len(inside)
    executor.close()
    assert os.environ.get("CUDA_VISIBLE_DEVICES") == before


@pytest.mark.usefixtures("gpus")
def test_workers_of_one_process_take_turns_on_its_gpu(tmp_path: Path) -> None:
    config = toy_runs.config(tmp_path, cluster={"address": "inline"})
    executor = InlineExecutor(config.cluster.gpus)
    placement = place_workers(config, executor.gpus())
    executor.close()
    assert placement.colocated and placement.rollout[0].gpus > 0


def test_without_gpus_none_is_seen(tmp_path: Path) -> None:
    # Ray hides no GPU from workers that ask for none, and libraries would all take the first
    config = toy_runs.config(tmp_path, cluster={"address": "local", "gpus": 0})
    placement = place_workers(config, 8)
    workers: list[Resources] = [*placement.rollout, *placement.reward, *placement.trainer]
    assert all(HIDDEN in worker.environment and worker.gpus == 0 for worker in workers)
    # a function that brings a model of its own still sees them where the policy has GPUs
    config = toy_runs.config(tmp_path, cluster={"address": "local", "gpus": 8})
    assert not any(HIDDEN in one.environment for one in place_workers(config, 8).reward)


# dtypes


@pytest.mark.slow
@pytest.mark.parametrize("who", [ToyEngine, ToyTrainer])
def test_either_in_16_bits_is_compared_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: Any
) -> None:
    # where it runs decides what it computes in, so it is asked: a config may say auto
    noise, original = 0.02, ToyEngine.log_probs
    monkeypatch.setattr(
        ToyEngine, "log_probs", lambda *a: [value + noise for value in original(*a)]
    )
    with pytest.raises(StaleWeightsError):
        run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "exact")))
    half = "bfloat16" if who is ToyEngine else lambda _: "bfloat16"
    monkeypatch.setattr(who, "dtype", half)
    run(toy_runs.config(tmp_path, run_dir=str(tmp_path / "rounded")))


# memory


def test_a_sleeping_reward_model_gives_its_cache_back(monkeypatch: pytest.MonkeyPatch) -> None:
    from rewards.inference.transformers import TransformersEngine

    events: list[str] = []

    class Part(torch.nn.Module):
        device = torch.device("cpu")

        def to(self, device: Any) -> Any:
            events.append(str(device))
            return self

    backbone = Part()
    backbone.model = Part()
    made: Any = TransformersEngine
    engine = made(backbone, Part())
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: events.append("empty"))
    events.clear()
    engine.to("cpu")
    assert events == ["cpu", "cpu", "empty"]  # when nothing holds it any more
    engine.to("cuda")
    assert events[3:] == ["cuda", "cuda"]


@pytest.mark.parametrize("offload", [False, True])
def test_a_sleeping_trainer_gives_back_what_torch_keeps(
    monkeypatch: pytest.MonkeyPatch, offload: bool
) -> None:
    # also with fsdp_offload, whose activations were on the GPU; buffers where engines closed them
    from raft.updates.sft import SFT

    events: list[str] = []
    for name in ("ipc_collect", "empty_cache"):
        monkeypatch.setattr(torch.cuda, name, lambda name=name: events.append(name))
    made: Any = object.__new__(SFT)
    made._on_gpu, made._settings = True, SimpleNamespace(fsdp_offload=offload)
    made._trainer = SimpleNamespace(model=SimpleNamespace(to=events.append), optimizer=None)
    made._shared = iter([1])
    made.sleep()
    made.wake()
    freed = ["ipc_collect", "empty_cache"]
    moved = [[], []] if offload else [["cpu"], ["cuda"]]
    assert events == [*moved[0], *freed, *moved[1], *freed]
    assert made.share("float32", False) is None


VLLM = {"kind": "model", "model": "a/model", "engine": "vllm"}
ON_VLLM = VLLM | {"function": None, "arguments": None}  # without those of the toy's config


@pytest.mark.parametrize(
    ("sections", "message"),
    [
        (
            {"reward": ON_VLLM, "cluster": {"placement": "colocated"}},
            "reward.engine: vllm keeps",
        ),
        (
            {
                "reward": ON_VLLM | {"gpu_memory": 0.7},
                "gold": {**VLLM, "gpu_memory": 0.6},
            },
            "reward.gpu_memory: .* 1.3 of one GPU",
        ),
    ],
)
def test_rewards_on_vllm_that_cannot_fit_are_refused_by_the_config(
    tmp_path: Path, sections: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        toy_runs.config(tmp_path, **sections)


@pytest.mark.usefixtures("gpus")
def test_what_does_not_fit_is_refused_before_the_start(tmp_path: Path) -> None:
    cluster = {"address": "local", "gpus": 2}
    with pytest.raises(InputError, match=r"reward\.engine: .* take turns on 2 GPU"):
        _check_gpus(toy_runs.config(tmp_path, reward=ON_VLLM, cluster=cluster))
    cluster["gpus"] = 3
    _check_gpus(toy_runs.config(tmp_path, reward=ON_VLLM, cluster=cluster))


def test_models_on_vllm_share_a_gpu() -> None:
    both = {"kind": "combine", "members": [VLLM, {**VLLM, "gpu_memory": 0.2}]}
    combined: Any = with_gpu_memory(read_reward(both, "reward"), 0.4)
    assert [member.reward.gpu_memory for member in combined.members] == [0.4, 0.2]
    plain: Any = read_reward({"kind": "model", "model": "a/model"}, "reward")
    plain = with_gpu_memory(plain, 0.4)
    assert plain.gpu_memory is None


@pytest.mark.parametrize(
    ("said", "key", "words"),
    [
        (
            "Free memory on device cuda:0 (10.1/79.2 GiB) on startup is less than desired GPU "
            "memory utilization (0.85, 67.3 GiB). Decrease GPU memory utilization.",
            "policy.gpu_memory: is 0.85 of a GPU, which others hold",
            "cluster.placement: separate",
        ),
        (
            "No available memory for the cache blocks. Try increasing `gpu_memory_utilization`.",
            "policy.gpu_memory: is 0.85 of a GPU, which the weights alone take up",
            "Raise it",
        ),
        (
            "CUDA out of memory. Tried to allocate 2.00 GiB.",
            "policy.gpu_memory: is 0.85 of a GPU, and the GPU is full",
            "tensor_parallel",
        ),
        (
            "To serve at least one request with max seq len 8192, 4.0 GiB KV cache is needed.",
            "policy.max_model_len: too long",
            "8192",
        ),
        ("Unknown attention backend", "", ""),
    ],
)
def test_engines_that_find_no_memory_name_the_setting(said: str, key: str, words: str) -> None:
    expected = InputError if key else ValueError
    with pytest.raises(expected) as caught, memory_as_input_error(0.85):
        raise ValueError(said)
    assert str(caught.value).startswith(key) and words in str(caught.value)
    assert "\n" not in str(caught.value)


# vLLM without vLLM


def test_an_option_that_vllm_does_not_know_is_the_configs(tmp_path: Path) -> None:
    def llm(*, quantization: str) -> None: ...

    options: Any = {"quantisation": "fp8"}
    with pytest.raises(InputError, match=r"policy\.vllm: .*quantisation"), options_as_input_error():
        llm(**options)
    for option in ("dtype", "tensor_parallel_size", "enable_sleep_mode"):
        with pytest.raises(InputError, match=f"policy: vllm.{option}"):
            toy_runs.config(tmp_path, policy={"vllm": {option: 1}})
    config = toy_runs.config(tmp_path, policy={"vllm": {"quantization": "fp8"}})
    with pytest.raises(InputError, match=r"policy\.vllm: is for vLLM, and the engine is toy"):
        run(config)


def write_weights(folder: Path, *names: str, shards: int = 1) -> Path:
    from safetensors.torch import save_file

    folder.mkdir()
    files = [f"model-{number}.safetensors" for number in range(shards)]
    where = {name: files[number % shards] for number, name in enumerate(names)}
    if shards == 1:
        where, files = dict.fromkeys(names, "model.safetensors"), ["model.safetensors"]
    else:
        text = json.dumps({"weight_map": where})
        (folder / "model.safetensors.index.json").write_text(text)
    for file in files:
        save_file({one: torch.ones(2) for one in names if where[one] == file}, folder / file)
    return folder


def test_a_reload_with_holes_is_an_error(tmp_path: Path) -> None:
    # vLLM keeps old values in silence; what only others' files have is no hole
    layers = [f"h.{number}.attn.weight" for number in range(4)]
    buffers = ["h.0.attn.bias", "h.1.rotary_emb.inv_freq", "lm_head.weight"]
    start = tensor_names(str(write_weights(tmp_path / "start", *layers, *buffers)))
    ours = [f"transformer.{name}" for name in layers]
    whole = write_weights(tmp_path / "whole", *ours, shards=2)
    assert check_complete(str(whole), start) == set(ours)
    holes = write_weights(tmp_path / "holes", *ours[:2])
    with pytest.raises(InputError, match=r"h\.2\.attn\.weight and 1 more.*Delete it"):
        check_complete(str(holes), start)
    with pytest.raises(InputError, match="1 more"):
        check_complete(str(holes), set(ours))
    next(whole.glob("model-1*")).unlink()  # a file that is lost
    with pytest.raises(InputError, match="has no weights for"):
        check_complete(str(whole), start)


@pytest.mark.parametrize("on_gpu", [True, False])
def test_requests_on_a_gpu_have_seeds_of_their_own(on_gpu: bool) -> None:
    # else two workers, and a restarted one, draw the same numbers again
    from rollout.engines.vllm import VLLMEngine
    from rollout.types import EngineError, Prompt, Sampling

    class Nothing:
        llm_engine: Any = None

        def __getattr__(self, name: str) -> Any:
            return lambda *_, **__: False

    made: Any = object.__new__(VLLMEngine)
    seeds: list[int | None] = []
    made._llm, made._on_gpu, made._calls, made._generating = Nothing(), on_gpu, 0, False
    made._llm.llm_engine, made.version, made._adapter = Nothing(), 0, None
    made._params = lambda sampling, count, seed: seeds.append(seed)
    prompts = [Prompt(name, "x", token_ids=(1,)) for name in "ab"]
    for seed in (5, 5, 6):
        with pytest.raises(EngineError, match="lost"):
            list(made.generate(prompts, Sampling(seed_per_prompt=False), seed))
    if on_gpu:
        assert seeds[:2] == seeds[2:4] and len({*seeds}) == 4
    else:
        assert set(seeds) == {None}


# adapters


def adapter(folder: Path, *names: str) -> Path:
    from safetensors.torch import save_file

    (folder / "adapter").mkdir(parents=True)
    tensors = {name: torch.ones(2) for name in names}
    save_file(tensors, folder / "adapter/adapter_model.safetensors")
    return folder


def test_engines_start_and_go_on_with_the_adapter_of_their_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a resumed run and a restarted worker begin with a checkpoint, whose base they must not merge
    import rollout.engines.vllm as module

    class LLM:
        def __init__(self, model: str, **options: Any) -> None:
            self.made, self.llm_engine, self.loaded = (model, options), self, list[Any]()

        def get_tokenizer(self) -> None: ...

        def add_lora(self, request: Any) -> None:
            self.loaded.append(request)

        def reset_prefix_cache(self) -> bool:
            return True

    class Request:
        def __init__(self, *given: Any) -> None:
            self.given = given

    monkeypatch.setattr(module, "import_vllm", lambda: SimpleNamespace(LLM=LLM))
    monkeypatch.setitem(sys.modules, "vllm.lora.request", SimpleNamespace(LoRARequest=Request))
    base = str(toy_runs.config(tmp_path).policy.model)
    third, fourth = (adapter(tmp_path / name, "a", "b") for name in ("third", "fourth"))
    made: Any = module.VLLMEngine
    engine = made(str(third), version=3, adapter=AdapterSync(base, 24), max_model_len=64)
    model, options = engine._llm.made
    assert model == base and options["enable_lora"] and options["max_lora_rank"] == 32
    engine.load_weights(str(fourth), 4)
    given = [request.given for request in engine._llm.loaded]
    # ids and names of their own: prefixes are cached by them
    assert given == [
        ("policy-3", 3, str(third / "adapter")),
        ("policy-4", 4, str(fourth / "adapter")),
    ]
    assert engine._adapter.given == given[1] and engine.version == 4
    for holes in (adapter(tmp_path / "holes", "a"), tmp_path):
        with pytest.raises(InputError, match="adapter"):
            engine.load_weights(str(holes), 5)
    start = made(base, version=0, adapter=AdapterSync(base, 8), max_model_len=64)
    assert start._adapter is None and start._llm.loaded == []


def test_adapters_are_loaded_where_merging_would_round(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import rollout.engines.base as module
    import rollout.engines.vllm

    on_vllm = EngineChoice("vllm", "serves it")
    config = SimpleNamespace(architectures=["One"])
    monkeypatch.setattr(module, "_config", lambda _: config)
    monkeypatch.setattr(rollout.engines.vllm, "serves_adapters", lambda names: names == ["One"])
    auto, always = (AdapterSync("base", 8, how) for how in ("auto", "adapter"))
    for wanted, dtype, given in (
        (auto, "bfloat16", auto),
        (auto, "float32", None),
        (auto, "auto", None),  # on a CPU
        (always, "float32", always),
        (AdapterSync("base", 8, "merged"), "bfloat16", None),
    ):
        assert module._choose_sync(wanted, on_vllm, dtype)[0] == given
    config.architectures = ["Other"]
    found, choice = module._choose_sync(auto, on_vllm, "bfloat16")
    assert found is None and "vLLM has none for Other" in choice.reason
    for choice in (on_vllm, EngineChoice("transformers", "asked for")):
        with pytest.raises(InputError, match=r"policy\.lora_sync: is adapter, but"):
            module._choose_sync(always, choice, "bfloat16")
    with pytest.raises(InputError, match=r"lora_sync: adapter needs train\.lora"):
        toy_runs.config(tmp_path, policy={"lora_sync": "adapter"})


@pytest.mark.parametrize(
    ("sections", "words"),
    [
        ({"train": {"lora": {"r": 4}}}, "an adapter is enough"),
        ({"policy": {"sync": "ipc"}, "train": {"lora": {"r": 4}}}, "an adapter is enough"),
        ({"policy": {"sync": "ipc"}, "cluster": {"address": "inline"}}, "ipc .* has one"),
        ({"policy": {"sync": "ipc"}, "cluster": {"placement": "separate"}}, "use nccl"),
        ({"policy": {"sync": "ipc"}, "overlap": 1}, "overlap: 1 they share none; use nccl"),
        ({"policy": {"sync": "ipc", "tensor_parallel": 2}}, "tensor_parallel .*use nccl"),
        ({"cluster": {"address": "inline"}}, "has one"),
        ({"policy": {"vllm": {"weight_transfer_config": {}}}}, "use policy.sync"),
    ],
)
def test_weights_that_cannot_be_sent_are_told_before_the_start(
    tmp_path: Path, sections: dict[str, Any], words: str
) -> None:
    policy = {"sync": "nccl", **sections.pop("policy", {})}
    cluster = {"address": "local", **sections.pop("cluster", {})}
    with pytest.raises(InputError, match=words):
        toy_runs.config(tmp_path, policy=policy, cluster=cluster, **sections)


@pytest.mark.parametrize(
    ("sync", "problems", "gpus"),
    [
        ("nccl", {0: "there is none", 1: "take turns on 1 GPU"}, 3),
        ("ipc", {0: "have none", 3: "GPUs of their own.*colocated, or nccl"}, 1),
    ],
)
def test_weights_are_given_to_vllm_alone_on_gpus_that_fit(
    tmp_path: Path, sync: Any, problems: dict[int, str], gpus: int
) -> None:
    config = toy_runs.config(tmp_path, policy={"sync": sync}, cluster={"address": "local"})
    with pytest.raises(
        InputError, match=rf"policy\.sync: {sync} is for vLLM, and the engine is toy"
    ):
        build_engine(config.policy.model, sync=sync)
    for count, problem in problems.items():
        with pytest.raises(InputError, match=rf"policy\.sync.*{problem}"):
            place_workers(config, count)
    assert place_workers(config, gpus).colocated == (sync == "ipc")
    assert place_workers(config, 0, trainers=0).trainer == ()  # nobody trains in `raft sample`


@pytest.mark.parametrize(("sync", "gpus"), [("nccl", 3), ("ipc", 1)])
def test_vllm_is_told_how_weights_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sync: Any, gpus: int
) -> None:
    import rollout.engines.base as module
    import rollout.engines.vllm
    from raft.assemble import _engine

    given = list[Any]()
    monkeypatch.setattr(module, "choose_engine", lambda *_: EngineChoice("vllm", "asked for"))
    monkeypatch.setattr(rollout.engines.vllm, "VLLMEngine", lambda _, **how: given.append(how))
    policy = {"sync": sync, "vllm": {"quantization": "fp8"}}
    config = toy_runs.config(tmp_path, policy=policy, cluster={"address": "local"})
    _engine(config, place_workers(config, gpus).colocated)("model")
    options = {"quantization": "fp8", "weight_transfer_config": {"backend": sync}}
    assert given[0]["options"] == options and given[0]["can_sleep"] == (sync == "ipc")


# turns


@pytest.mark.usefixtures("gpus")
def test_where_gpus_are_shared_all_are_checked_in_turns_and_weights_are_not_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    events: list[str] = []

    def noted(who: str, original: Any) -> Any:
        def method(worker: Any, *arguments: Any) -> Any:
            events.append(who + (" to forget" if arguments == (True,) else ""))
            return original(worker, *arguments)

        return method

    for who, kind in (("engine", ToyEngine), ("trainer", ToyTrainer)):
        for name in ("sleep", "wake", "log_probs"):
            method = noted(f"{who} {name}", getattr(kind, name))
            monkeypatch.setattr(kind, name, method)
    for name, kind in (
        ("rehearse", ToyTrainer), ("train", ToyTrainer),
        ("load_weights", ToyEngine), ("generate", ToyEngine),
    ):  # fmt: skip
        monkeypatch.setattr(kind, name, noted(name, getattr(kind, name)))
    run(toy_runs.config(tmp_path, iterations=1))  # one GPU for all
    seen = [one for one, before in zip(events, ["", *events], strict=False) if one != before]
    check = ["trainer log_probs", "trainer sleep", "engine wake", "engine log_probs"]
    assert seen == [
        "trainer sleep",
        "engine sleep",
        "trainer wake",
        "rehearse",  # before anything is drawn
        "trainer sleep",
        "engine wake",
        "generate",
        "engine sleep",
        "trainer wake",
        *check,
        "generate",
        "engine sleep to forget",
        "trainer wake",
        "trainer log_probs",
        "train",
        "trainer log_probs",
        "trainer sleep",
        "load_weights",
        "engine log_probs",
        "engine wake",
        "generate",
        "engine sleep",  # while policies are measured
        "engine wake",
    ]


@pytest.mark.parametrize("sends", [True, False])
def test_trainers_that_share_weights_are_awake_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sends: bool
) -> None:
    import raft.train as module
    from raft.assemble import WorkerGroups
    from raft.workers.weight_check import Probe

    events: list[str] = []

    class Group:
        version = 0

        def __init__(self, name: str) -> None:
            self.name = name

        def sleep(self, forget: bool = False) -> None:
            events.append(f"{self.name} sleep{' to forget' * forget}")

        def wake(self) -> None:
            events.append(f"{self.name} wake")

        def sync(self, policy: Any, sender: Any, *, shares: bool) -> list[Any]:
            assert shares
            events.append(f"sync from {sender.name if sender else policy.path}")
            return []

    groups: Any = [Group(name) for name in ("engines", "rewards", "trainers")]
    monkeypatch.setattr(module, "stored_policies", lambda _: {1: tmp_path})
    monkeypatch.setattr(module, "_stored_probe", lambda _: Probe(((1, 2),), (0.0,)))
    folder: Any = SimpleNamespace(root=tmp_path)
    module.sync(folder, WorkerGroups(*groups, take_turns=True), [], 1, send=sends)
    before = ["engines sleep to forget", "rewards sleep", "trainers wake", "sync from trainers"]
    if not sends:
        before = ["trainers sleep", f"sync from {tmp_path}"]
    assert events == [*before, "engines wake", "rewards wake"]
