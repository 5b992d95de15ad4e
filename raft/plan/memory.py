"""The memory of one process, in parts: of a model that draws, scores, or is trained.

Weights, gradients, optimizer and caches follow from element counts. Activations are estimates:
their factors per token were counted in the graphs of transformers' Llama (`saved_tensors_hooks`),
and a third is added for the temporary tensors of a backward pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

from raft.plan.sizes import ModelSize

__all__ = [
    "CONTEXT", "GIB", "PHASES", "Part", "Parts", "Phase", "Process", "Training", "inference_bytes",
    "needed", "optimizer_bytes", "total", "training_parts",
]  # fmt: skip

GIB = 2**30
# of a process that uses a GPU: CUDA's context, kernels, the libraries' own buffers
CONTEXT = GIB // 2
_COLLECTIVES = GIB // 2  # NCCL's buffers, where processes train together
_ON_THE_WAY = 4 / 3
_TILE = 32_768  # positions of TRL's head over the vocabulary at a time

Phase = Literal["draw", "train", "save", "sync", "measure"]
PHASES: tuple[Phase, ...] = ("draw", "train", "save", "sync", "measure")


@dataclass(frozen=True)
class Part:
    """Bytes of one part of a process's memory.

    `least` are the bytes that are enough, where fewer are: batches are halved, or the optimizer is
    paged to the CPU.
    """

    bytes: int
    least: int | None = None

    @property
    def needed(self) -> int:
        return self.bytes if self.least is None else min(self.bytes, self.least)


Parts = Mapping[str, Part]


@dataclass(frozen=True)
class Process:
    """The memory of one worker in each phase of an iteration, on each GPU of its own.

    Attributes:
        gpus: the numbers of its GPUs; none on a CPU.
        host: the most bytes of CPU memory: of models that sleep there, or are written from there.
        limit: the most bytes of a GPU that it may take, where a setting says so.
    """

    name: str
    gpus: tuple[int, ...]
    phases: Mapping[Phase, Parts]
    host: int = 0
    limit: int | None = None

    def counted(self) -> Process:
        """Return the process without the parts that are estimated: activations, libraries' own."""
        phases: dict[Phase, Parts] = {
            phase: {key: part for key, part in parts.items() if key not in ("activations", "other")}
            for phase, parts in self.phases.items()
        }
        return replace(self, phases=phases)

    @property
    def excess(self) -> int:
        """Bytes beyond the limit in the fullest phase, less than 0 below it; 0 without a limit."""
        return 0 if self.limit is None else total(self.peak()) - self.limit

    def peak(self) -> Parts:
        """Return the parts of the phase that takes most memory."""
        return max(self.phases.values(), key=total)


def total(parts: Parts) -> int:
    return sum(part.bytes for part in parts.values())


def needed(parts: Parts) -> int:
    return sum(part.needed for part in parts.values())


def inference_bytes(size: ModelSize, tokens: int, element: int = 2) -> int:
    """Return the bytes of one layer's activations, in a forward pass without gradients.

    `element` is the bytes of a number.
    """
    return tokens * element * (3 * size.inner + 10 * size.hidden)


def optimizer_bytes(name: str, element: int) -> float:
    """Return the bytes of an optimizer's state per trained element, by its name here or in
    transformers; `element` is the bytes of a weight."""
    if "8bit" in name:
        return 2 / ("lion" in name or 1)
    if name.startswith(("sgd", "adafactor")):
        return 0
    # torch keeps moments as wide as the weights, bitsandbytes in float32
    width = 4 if "paged" in name or "32bit" in name or "bnb" in name else element
    return width * (1 if "lion" in name else 2)


@dataclass(frozen=True)
class Training:
    """The settings of a training that its memory depends on.

    Attributes:
        element: bytes of a weight, and of a gradient.
        autocast: whether the arithmetic is in bfloat16 under wider weights.
        trained: the number of elements that are trained; with LoRA, the adapters'.
        tokens, least_tokens: tokens of a forward pass; the fewest, as when memory runs out.
        optimizer: its name here or in transformers.
        shards: over how many processes weights, gradients and optimizer are spread.
        world: how many processes train together.
        logits: positions with logits at a time.
        gathered: bytes of an element in a layer that is gathered from its shards.
        offload: whether shards are kept in CPU memory.
        reference: elements of a frozen copy to compare with.
        buckets: whether gradients are held twice, as torch's wrapper for several processes does.
    """

    element: int
    autocast: bool
    trained: int
    lora: bool
    checkpointing: bool
    tokens: int
    optimizer: str
    least_tokens: int | None = None
    shards: int = 1
    world: int = 1
    logits: int = _TILE
    gathered: int = 2
    offload: bool = False
    reference: int = 0
    buckets: bool = False

    @property
    def gradient(self) -> int:
        """Bytes of a trained element, and of its gradient: 4 in adapters, which are float32."""
        return 4 if self.lora else self.element


def training_parts(size: ModelSize, how: Training) -> dict[str, Part]:
    """Return the memory of a process that trains, at its peak: in a forward pass while gradients
    of an earlier pass are held."""
    frozen = (size.elements if how.lora else how.reference) * how.element
    mine = -(-how.trained // how.shards)
    state = int(mine * optimizer_bytes(how.optimizer, how.gradient))
    gone = how.offload  # to CPU memory
    parts = {
        "weights": Part(frozen + (0 if gone else mine * how.gradient)),
        "gradients": Part(0 if gone else mine * how.gradient * (1 + how.buckets)),
        "optimizer": Part(0 if gone else state, least=0 if "paged" in how.optimizer else None),
    }
    most = _activations(size, how, how.tokens)
    least = None if how.least_tokens is None else _activations(size, how, how.least_tokens)
    other = CONTEXT + (_COLLECTIVES if how.world > 1 else 0) + _copies(size, how)
    return parts | {"activations": Part(most, least), "other": Part(other)}


def _copies(size: ModelSize, how: Training) -> int:
    """Return the bytes of copies of the weights that training makes.

    Autocast keeps bfloat16 copies of all through a forward pass. Shards are gathered layer by
    layer, and those outside the layers stay gathered.
    """
    if how.shards > 1:
        layer = (size.elements - size.ends) // max(1, size.layers)
        # two layers and their gradients; embedding and head with theirs
        return how.gathered * (4 * layer + 2 * size.ends)
    return 2 * how.trained if how.autocast and not how.lora else 0


def _activations(size: ModelSize, how: Training, tokens: int) -> int:
    """Return the bytes of the activations of `tokens` tokens, by estimate.

    These are the states between layers, the tensors that one layer (without checkpointing, every
    layer) keeps for its gradients, the float32 logits and their gradient.
    """
    wide = how.element == 4 and how.autocast
    factor = 30 if wide else 24 if how.lora else 20
    layer = tokens * (factor * size.hidden + 4 * size.kv_width + 8 * size.inner)
    if how.element == 4 and not how.autocast:
        layer *= 2
    working = int(layer * _ON_THE_WAY)
    kept = tokens * how.element * size.hidden if how.checkpointing else layer
    logits = min(tokens, how.logits) * size.vocabulary * 4 * 2
    return working + kept * (size.layers - 1) + logits
