"""The engine protocol, and the choice of an engine. Engines see token ids and know no rewards."""

from __future__ import annotations

import importlib.util
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rollout.data.jsonl import is_object
from rollout.engines.transfer import WITHOUT_DISK, Sync
from rollout.text.printable import one_line
from rollout.types import Group, InputError, Prompt, Sampling

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

log = logging.getLogger("rollout")

ENGINES = ("auto", "vllm", "transformers", "toy")
TOY_FILE = "toy_policy.json"
ADAPTER_FOLDER = "adapter"  # in the checkpoint of a policy that is trained with LoRA
# names of the context length in configs
_CONTEXT = ("max_position_embeddings", "n_positions", "max_sequence_length")


class Engine(Protocol):
    """Draws K responses per prompt from one policy whose weights change in place.

    `version` counts the policy's updates: 0 is the starting model. Every `Group` carries it.
    `dtype` is the type that the engine computes in, which limits how close its log-probabilities
    are to another program's.
    """

    name: str
    version: int

    @property
    def dtype(self) -> str: ...

    def generate(
        self,
        prompts: Sequence[Prompt],
        sampling: Sampling,
        seed: int,
    ) -> Iterator[Group]:
        """Yield one group per prompt, each as soon as its K responses are drawn, in any order.

        With `sampling.seed_per_prompt` a prompt's samples depend on (`seed`, prompt id) alone, so
        that the k-th is the same whether it is drawn with those before it or alone (the prompt's
        `samples` are the wanted ones). Without it they depend on the batch too, which is faster.
        """
        ...

    def load_weights(self, path: str, version: int) -> None:
        """Replace the weights in place by those of the checkpoint folder `path`."""
        ...

    def log_probs(self, token_ids: Sequence[int]) -> list[float]:
        """Return log p(token_t | tokens before t) for t = 1 … T−1, in nats."""
        ...

    def checksums(self) -> list[dict[str, int]]:
        """Return, for each device, tensor name -> checksum; [] where weights cannot be read."""
        ...

    def sleep(self, forget: bool = False) -> None:
        """Free the accelerator's memory; do nothing where there is none.

        With `forget` the weights may be lost, and `load_weights` must come next.
        """
        ...

    def wake(self) -> None: ...


@dataclass(frozen=True)
class AdapterSync:
    """How a sync loads a LoRA policy: the weights of `base` with an adapter of this rank.

    An adapter has a hundredth of the bytes of the merged weights, and loading it loses nothing of
    an update to the rounding of W + ΔW. `how` is what a sync loads; auto: the adapter where the
    engine can load one and computes in 16 bits, otherwise merged weights.
    """

    base: str
    rank: int
    how: Literal["auto", "adapter", "merged"] = "auto"


@dataclass(frozen=True)
class EngineChoice:
    """The engine that will serve a model and why, in words for the log."""

    name: str
    reason: str


def choose_engine(model: str, engine: str = "auto", *, on_gpu: bool | None = None) -> EngineChoice:
    """Choose the engine for a model folder or hub name, with the reason for the log.

    A folder with a `toy_policy.json` gets the toy engine, whichever is asked for.

    Raises:
        InputError: `engine` is unknown, or cannot serve the model that it was asked for by name;
            the model's configuration cannot be read.
    """
    if engine not in ENGINES:
        raise InputError(
            "policy.engine",
            f"unknown engine {engine!r}",
            f"use one of {', '.join(ENGINES)}",
        )
    if (Path(model) / TOY_FILE).exists():
        return EngineChoice("toy", f"{model} holds a {TOY_FILE}")
    if engine == "toy":
        raise InputError("policy.engine", f"toy needs a {TOY_FILE} in {model}", "there is none")
    if engine == "transformers":
        return EngineChoice("transformers", "asked for by name")
    obstacle = _vllm_obstacle(model, on_gpu)
    if engine == "vllm":
        if obstacle:
            raise InputError(
                "policy.engine",
                f"vllm cannot serve {model}: {obstacle}",
                "use engine: auto",
            )
        return EngineChoice("vllm", "asked for by name")
    if obstacle:
        return EngineChoice("transformers", obstacle)
    return EngineChoice("vllm", "vLLM serves this architecture")


def _vllm_obstacle(model: str, on_gpu: bool | None) -> str | None:
    """Return why vLLM cannot serve this model, None if it can.

    The cheap checks come first, since importing vLLM takes 10 s.
    """
    package = importlib.util.find_spec("vllm")
    if package is None:
        return "vLLM is not installed (pip install raft-rlhf[cpu] or raft-rlhf[gpu])"
    config = _config(model)
    if on_gpu is None:
        import torch

        on_gpu = torch.cuda.is_available()
    if not on_gpu and (obstacle := _cpu_obstacle(config)):
        return obstacle
    architectures: list[str] = getattr(config, "architectures", None) or []
    if not _vllm_serves(architectures, Path(package.origin or "").parent):
        named = ", ".join(architectures) or "a model without architectures"
        return f"vLLM does not support {named}"
    if not on_gpu and _needs_a_gpu():
        return "this vLLM is built for GPUs, and none is used"
    return None


def _vllm_serves(architectures: Sequence[str], package: Path) -> bool:
    registry = package / "model_executor/models/registry.py"
    if registry.is_file():
        source = registry.read_text(encoding="utf-8")
        if not any(f'"{name}"' in source for name in architectures):
            return False
    from rollout.engines.vllm import import_vllm

    supported = import_vllm().ModelRegistry.get_supported_archs()
    return any(name in supported for name in architectures)


def _needs_a_gpu() -> bool:
    from rollout.engines.vllm import import_vllm

    return not import_vllm().platforms.current_platform.is_cpu()


def _config(model: str) -> PreTrainedConfig:
    from transformers import AutoConfig

    configs: Any = AutoConfig  # its options have no types
    try:
        return configs.from_pretrained(model)
    except (OSError, ValueError) as error:
        raise InputError(
            "policy.model", f"cannot read the configuration of {model} ({one_line(error)})"
        ) from error


def _cpu_obstacle(config: PreTrainedConfig) -> str | None:
    """Return why vLLM's CPU kernels cannot run the model, None if they can.

    They need a head dimension of at least 32 that is a multiple of 16.
    """
    heads = getattr(config, "num_attention_heads", None)
    head_dim = getattr(config, "head_dim", None) or (heads and config.hidden_size // heads)
    if head_dim and (head_dim < 32 or head_dim % 16):
        return f"vLLM's CPU kernels refuse head_dim {head_dim} (they want 32, 48, 64, …)"
    return None


def build_engine(
    model: str,
    *,
    engine: str = "auto",
    dtype: str = "auto",
    max_model_len: int | None = None,
    tensor_parallel: int = 1,
    gpu_memory: float = 0.85,
    max_num_seqs: int | None = None,
    version: int = 0,
    seed: int = 0,
    can_sleep: bool = False,
    adapter: AdapterSync | None = None,
    sync: Sync = "auto",
    vllm: Mapping[str, object] | None = None,
) -> tuple[Engine, EngineChoice]:
    """Load `model` into the engine that serves it; return the engine, and the choice for the log.

    The caller logs the choice, since this may run in another process. Raises InputError.

    Args:
        adapter: how a policy that is trained with LoRA is synced.
        sync: how new weights come; auto: from the disk.
    """
    choice = choose_engine(model, engine)
    if vllm and choice.name != "vllm":
        raise InputError(
            "policy.vllm", f"is for vLLM, and the engine is {choice.name}", "leave it out"
        )
    if sync in WITHOUT_DISK and choice.name != "vllm":
        raise InputError(
            "policy.sync", f"{sync} is for vLLM, and the engine is {choice.name}", "use disk"
        )
    adapter, choice = _choose_sync(adapter, choice, dtype)
    if choice.name == "toy":
        from rollout.engines.toy import ToyEngine

        return ToyEngine(model, version=version), choice
    if choice.name == "transformers":
        from rollout.engines.transformers import TransformersEngine

        size = max_num_seqs or 64
        return TransformersEngine(model, dtype=dtype, batch_size=size, version=version), choice
    from rollout.engines.vllm import VLLMEngine

    receives = {"weight_transfer_config": {"backend": sync}} if sync in WITHOUT_DISK else {}
    serving = VLLMEngine(
        model,
        dtype=dtype,
        max_model_len=max_model_len,
        tensor_parallel=tensor_parallel,
        gpu_memory=gpu_memory,
        max_num_seqs=max_num_seqs,
        version=version,
        seed=seed,
        can_sleep=can_sleep,
        adapter=adapter,
        options={**(vllm or {}), **receives},
    )
    return serving, choice


def _choose_sync(
    adapter: AdapterSync | None, choice: EngineChoice, dtype: str
) -> tuple[AdapterSync | None, EngineChoice]:
    """Return `adapter` if a sync loads adapters, else None; and the choice with the reason added.

    Raises:
        InputError: adapters are asked for, and the engine cannot load them.
    """
    if adapter is None or adapter.how == "merged":
        return None, choice
    obstacle = None
    if choice.name != "vllm":
        obstacle = f"{choice.name} loads none"
    else:
        from rollout.engines.vllm import serves_adapters

        architectures: list[str] = getattr(_config(adapter.base), "architectures", None) or []
        if not serves_adapters(architectures):
            obstacle = f"vLLM has none for {', '.join(architectures)}"
    if obstacle and adapter.how == "adapter":
        raise InputError("policy.lora_sync", f"is adapter, but {obstacle}", "use merged")
    if obstacle is None and adapter.how == "auto":
        import torch

        exact = dtype == "float32" or (dtype == "auto" and not torch.cuda.is_available())
        obstacle = "nothing of them is lost in float32" if exact else None
    said = f"adapters merged: {obstacle}" if obstacle else "adapters beside the weights"
    reasons = replace(choice, reason=f"{choice.reason}; {said}")
    return (None if obstacle else adapter), reasons


def stated_context_length(model: str) -> int | None:
    """Return the context length, in tokens, that the files of a local folder state.

    None where they do not state it. Transformers is not imported.
    """
    for name, keys in ((TOY_FILE, ("context",)), ("config.json", _CONTEXT)):
        try:
            found = json.loads((Path(model).expanduser() / name).read_text(encoding="utf-8"))
        except (OSError, ValueError):  # the loader of the model reports a broken file
            continue
        parts = (found, found.get("text_config")) if is_object(found) else ()
        for part in filter(is_object, parts):
            for key in keys:
                if isinstance(length := part.get(key), int):
                    return length
    return None


def context_length(model: str) -> int:
    """Return how many tokens the model takes, prompt and response together.

    Raises InputError where its configuration does not say.
    """
    if (stated := stated_context_length(model)) is not None:
        return stated
    config = _config(model)
    for key in _CONTEXT:
        if (length := getattr(config, key, None)) is not None:
            return int(length)
    raise InputError("policy.max_model_len", f"{model} does not say its context length", "set it")
