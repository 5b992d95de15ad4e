"""vLLM's weights in shared GPU memory, in one process: tensors stand for CUDA's handles."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
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
        self.exported: list[torch.Tensor] = []
        self.opened: list[int] = []
        self.chunks: list[SharedChunk] = []

    def export(self, tensor: torch.Tensor) -> tuple[None, tuple[Any, ...]]:
        self.exported.append(tensor)
        return None, (len(self.exported) - 1, *"bcdef", "the trainer's device", "h")

    def open(self, number: int, *others: Any) -> torch.Tensor:
        assert others[_DEVICE - 1] != "the trainer's device"
        self.opened.append(number)
        return self.exported[number]

    @contextmanager
    def laid(self) -> Iterator[None]:
        """With the smallest buffer, so that there are many chunks."""
        from vllm.distributed.weight_transfer import packed_tensor

        empty = torch.empty

        def on_cpu(*size: Any, device: Any = None, **how: Any) -> torch.Tensor:
            return empty(*size, device="cpu" if device == "cuda" else device, **how)

        with (
            patch.object(packed_tensor, "reduce_tensor", self.export),
            patch.object(reductions, "rebuild_cuda_tensor", self.open),
            patch.object(vllm_transfer, "BUFFER", 1),
            patch.object(torch, "empty", on_cpu),
            patch.object(torch.cuda, "current_device", lambda: 0),
            patch.object(torch.cuda, "current_stream", lambda *_: SimpleNamespace(synchronize=int)),
            patch.object(
                torch.cuda, "get_device_properties", lambda _: SimpleNamespace(uuid=self.uuid)
            ),
            patch.object(torch.accelerator, "synchronize", lambda: None),
        ):
            yield

    def read(self, chunk: SharedChunk) -> dict[str, torch.Tensor]:
        """The tensors of a chunk, without vLLM's code."""
        assert list(chunk.handles) == [self.uuid]
        buffer, tensors = self.exported[chunk.handles[self.uuid][0]], chunk.tensors
        assert sum(chunk.sizes) <= len(buffer)
        found, begin = {}, 0
        for name, dtype, shape, size in zip(
            tensors.names, tensors.dtypes, tensors.shapes, chunk.sizes, strict=True
        ):
            found[name] = buffer[begin : begin + size].clone().view(getattr(torch, dtype))
            found[name], begin = found[name].view(shape), begin + size
        return found


def shared(engine: Any, model: torch.nn.Module, folder: str, version: int) -> SharedMemory:
    """Share a model with an engine of this process."""
    memory = SharedMemory()
    with memory.laid():
        engine.begin_taking(folder, sent_tensors(model, engine.dtype).names)
        for chunk in shared_chunks(model, engine.dtype):
            memory.chunks.append(pickle.loads(pickle.dumps(chunk)))
            engine.take(memory.chunks[-1])
        for buffer in memory.exported:
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
