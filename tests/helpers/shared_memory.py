"""vLLM's weights in shared GPU memory: mapped files stand for the buffers and CUDA's handles."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
from torch.multiprocessing import reductions

from rollout.engines import vllm_transfer
from rollout.engines.transfer import SharedChunk
from rollout.engines.vllm_transfer import sent_tensors, shared_chunks

_DEVICE = 6  # place of the device among the arguments with which torch opens a tensor


class SharedMemory:
    """The memory of one GPU: what a trainer exports, an engine opens by its handle."""

    def __init__(self, uuid: str = "GPU-a") -> None:
        self.uuid = uuid
        self.opened: list[str] = []
        self.chunks: list[SharedChunk] = []
        self.buffers: list[torch.Tensor] = []

    def export(self, tensor: torch.Tensor) -> tuple[None, tuple[Any, ...]]:
        assert tensor is self.buffers[-1]
        name = str(Path(self._home) / str(len(self.buffers) - 1))
        return None, (name, len(tensor), *"cdef", "the trainer's device", "h")

    def open(self, name: str, size: int, *others: Any) -> torch.Tensor:
        assert others[_DEVICE - 2] != "the trainer's device"
        self.opened.append(name)
        return torch.from_file(name, shared=True, size=size, dtype=torch.uint8)

    @contextmanager
    def laid(self) -> Iterator[None]:
        """With the smallest buffer, so that there are many chunks."""
        from vllm.distributed.weight_transfer import packed_tensor

        empty = torch.empty

        def allocated(*size: Any, device: Any = None, **how: Any) -> torch.Tensor:
            if device != "cuda":
                return empty(*size, device=device, **how)
            name = str(Path(self._home) / str(len(self.buffers)))
            self.buffers.append(torch.from_file(name, shared=True, size=size[0], **how))
            return self.buffers[-1]

        gpu, stream = SimpleNamespace(uuid=self.uuid), SimpleNamespace(synchronize=lambda: None)
        with (
            TemporaryDirectory() as self._home,
            patch.object(packed_tensor, "reduce_tensor", self.export),
            patch.object(reductions, "rebuild_cuda_tensor", self.open),
            patch.object(vllm_transfer, "BUFFER", 1),
            patch.object(torch, "empty", allocated),
            patch.object(torch.cuda, "current_device", lambda: 0),
            patch.object(torch.cuda, "current_stream", lambda *_: stream),
            patch.object(torch.cuda, "get_device_properties", lambda _: gpu),
            patch.object(torch.accelerator, "synchronize", lambda: None),
        ):
            yield

    def read(self, chunk: SharedChunk) -> dict[str, torch.Tensor]:
        """The tensors of a chunk, without vLLM's code."""
        assert list(chunk.handles) == [self.uuid]
        name, size, *_ = chunk.handles[self.uuid]
        buffer = torch.from_file(name, shared=True, size=size, dtype=torch.uint8)
        assert sum(chunk.sizes) <= size
        found, begin, tensors = dict[str, torch.Tensor](), 0, chunk.tensors
        for name, dtype, shape, size in zip(
            tensors.names, tensors.dtypes, tensors.shapes, chunk.sizes, strict=True
        ):
            own = buffer[begin : begin + size].clone()
            found[name], begin = own.view(getattr(torch, dtype)).view(shape), begin + size
        return found


def enter_memory(engine: Any) -> None:
    """Have the engine of another process take chunks from the GPU's memory."""
    memory, take = SharedMemory(), engine.take

    def taken(chunk: SharedChunk | None) -> None:
        with memory.laid():  # else its kernels are compiled for the GPU that there is not
            take(chunk)

    engine.take = taken


def shared(engine: Any, model: torch.nn.Module, folder: str, version: int) -> SharedMemory:
    """Share a model with an engine of this process."""
    memory = SharedMemory()
    with memory.laid():
        engine.begin_taking(folder, sent_tensors(model, engine.dtype).names)
        for chunk in shared_chunks(model, engine.dtype):
            memory.chunks.append(pickle.loads(pickle.dumps(chunk)))
            engine.take(memory.chunks[-1])
        for buffer in memory.buffers:
            buffer.fill_(255)  # it is the trainer's: nothing of it may be an engine's
        engine.take(None)
        engine.end_sync(version)
    return memory


def shared_by(trainer: Any, dtype: str) -> dict[str, torch.Tensor]:
    """What one rank of a trainer shares."""
    memory, found = SharedMemory(), dict[str, torch.Tensor]()
    with memory.laid():
        chunk = trainer.share(dtype, True)
        while chunk is not None:
            found |= memory.read(chunk)
            chunk = trainer.share(dtype, False)
    trainer.sleep()
    assert trainer.share(dtype, False) is None
    return found
