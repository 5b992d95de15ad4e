"""The memory of one process, in parts: what a model takes when it draws, scores, or is trained.

Weights, gradients, optimizer and caches follow from element counts. Activations are estimates:
their factors per token were counted in the graphs of transformers' Llama (`saved_tensors_hooks`),
and a third is added for what a backward pass makes on its way.
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
# of a process that has touched a GPU: CUDA's context, kernels, the libraries' own buffers
CONTEXT = GIB // 2
_COLLECTIVES = GIB // 2  # NCCL's buffers, where processes train together
_ON_THE_WAY = 4 / 3
_TILE = 32_768  # positions of TRL's head over the vocabulary at a time

Phase = Literal["draw", "train", "save", "measure"]
PHASES: tuple[Phase, ...] = ("draw", "train", "save", "measure")


@dataclass(frozen=True)
class Part:
    """Bytes; `least` where a process makes do with less: it halves batches, or pages to the CPU."""

    bytes: int
    least: int | None = None

    @property
    def needed(self) -> int:
        return self.bytes if self.least is None else min(self.bytes, self.least)


Parts = Mapping[str, Part]


@dataclass(frozen=True)
class Process:
    """What one worker holds in each phase of an iteration, on each GPU of its own.

    Attributes:
        gpus: their numbers; none on a CPU.
        host: bytes of CPU memory, at most: what sleeps there, or is written from there.
        limit: bytes of a GPU that it takes at most, where a setting says so.
    """

    name: str
    gpus: tuple[int, ...]
    phases: Mapping[Phase, Parts]
    host: int = 0
    limit: int | None = None

    def counted(self) -> Process:
        """The same without what is estimated: activations, and what libraries keep."""
        phases: dict[Phase, Parts] = {
            phase: {key: part for key, part in parts.items() if key not in ("activations", "other")}
            for phase, parts in self.phases.items()
        }
        return replace(self, phases=phases)

    @property
    def excess(self) -> int:
        """Bytes beyond its limit at its fullest."""
        return 0 if self.limit is None else total(self.peak()) - self.limit

    def peak(self) -> Parts:
        """The parts of its fullest phase."""
        return max(self.phases.values(), key=total)


def total(parts: Parts) -> int:
    return sum(part.bytes for part in parts.values())


def needed(parts: Parts) -> int:
    return sum(part.needed for part in parts.values())


def inference_bytes(size: ModelSize, tokens: int, element: int = 2) -> int:
    """Activations of a forward pass over `tokens` without gradients: those of one layer."""
    return tokens * element * (3 * size.inner + 10 * size.hidden)


def optimizer_bytes(name: str, element: int) -> float:
    """Bytes of an optimizer's state per trained element, by its name here or in transformers;
    `element` is the width of the weights."""
    if "8bit" in name:
        return 2 / ("lion" in name or 1)
    if name.startswith(("sgd", "adafactor")):
        return 0
    # torch keeps moments as wide as the weights, bitsandbytes in float32
    width = 4 if "paged" in name or "32bit" in name or "bnb" in name else element
    return width * (1 if "lion" in name else 2)


@dataclass(frozen=True)
class Training:
    """How a model is trained, as far as memory is concerned.

    Attributes:
        element: bytes of a weight, and of a gradient.
        autocast: arithmetic in bfloat16 under wider weights.
        trained: elements that are trained; with adapters, theirs.
        tokens, least_tokens: of a forward pass, and where it is cut when memory runs out.
        optimizer: by its name here or in transformers.
        shards: over how many processes weights, gradients and optimizer are spread.
        world: how many train together.
        logits: positions with logits at a time.
        gathered: bytes of an element of a shard's layer while it is whole.
        offload: shards rest in CPU memory.
        reference: elements of a frozen copy to compare with.
        buckets: gradients are held once more, as torch's wrapper for several processes does.
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
        """Bytes of a trained element, and of its gradient: adapters are float32."""
        return 4 if self.lora else self.element


def training_parts(size: ModelSize, how: Training) -> dict[str, Part]:
    """The parts of a process that trains, at its peak: a forward pass with gradients there."""
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
    """bfloat16 copies of weights: autocast keeps all through a forward pass, shards are gathered
    layer by layer, and those outside the layers stay."""
    if how.shards > 1:
        layer = (size.elements - size.ends) // max(1, size.layers)
        # two layers and their gradients; embedding and head with theirs
        return how.gathered * (4 * layer + 2 * size.ends)
    return 2 * how.trained if how.autocast and not how.lora else 0


def _activations(size: ModelSize, how: Training, tokens: int) -> int:
    """Of `tokens`: the states between layers, and what one layer (all, without checkpointing)
    keeps for its gradients; logits, their float32 copy and their gradient."""
    wide = how.element == 4 and how.autocast
    factor = 30 if wide else 24 if how.lora else 20
    layer = tokens * (factor * size.hidden + 4 * size.kv_width + 8 * size.inner)
    if how.element == 4 and not how.autocast:
        layer *= 2
    working = int(layer * _ON_THE_WAY)
    kept = tokens * how.element * size.hidden if how.checkpointing else layer
    logits = min(tokens, how.logits) * size.vocabulary * 4 * 2
    return working + kept * (size.layers - 1) + logits
