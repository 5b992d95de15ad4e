"""vLLM's weight transfer over a queue: all of it but NCCL's communicator, which needs GPUs."""

from __future__ import annotations

import queue
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import torch

from rollout.engines.transfer import SentTensors, Transfer
from rollout.engines.vllm_transfer import send_weights, sent_tensors


class Line:
    """A communicator of two: what rank 0 broadcasts the other takes."""

    def __init__(self) -> None:
        self.under_way: queue.Queue[torch.Tensor] = queue.Queue()
        self.met: list[Any] = []
        self.ended = 0

    @contextmanager
    def laid(self) -> Iterator[None]:
        from vllm.distributed.weight_transfer import nccl_engine

        def end(sends: bool) -> Any:
            def meet(info: Any, *_: Any) -> _End:
                self.met.append(info)
                return _End(self, sends)

            return meet

        with (
            patch.object(nccl_engine, "open_trainer_endpoint", end(True)),
            patch.object(nccl_engine, "worker_init_process_group", end(False)),
            patch.object(torch.cuda, "current_stream", lambda: None),
            patch.object(torch.accelerator, "synchronize", lambda: None),
        ):
            yield


class _End:
    def __init__(self, line: Line, sends: bool) -> None:
        self._line, self._sends = line, sends

    def broadcast(self, tensor: torch.Tensor, src: int, stream: None) -> None:
        assert src == 0
        if self._sends:
            self._line.under_way.put(tensor.clone())
            return
        came = self._line.under_way.get(timeout=60)
        assert came.shape == tensor.shape and came.dtype == tensor.dtype  # NCCL would not see it
        tensor.copy_(came)

    def destroy(self) -> None:
        self._line.ended += 1


def exchanged(engine: Any, model: torch.nn.Module, folder: str, version: int) -> Line:
    """Send a model to an engine of this process."""
    line = Line()
    to = Transfer("10.0.0.1", 4242, 1, 2, sent_tensors(model, engine.dtype))
    with line.laid():
        sending = threading.Thread(target=send_weights, args=(model, engine.dtype, 0, to))
        sending.start()
        engine.receive(folder, version, to)
        sending.join(timeout=60)
    assert not sending.is_alive() and line.under_way.empty()
    return line


def sent_by(trainer: Any, dtype: str) -> dict[str, torch.Tensor]:
    """What one rank of a trainer sends; nothing but of rank 0."""
    line, tensors = Line(), trainer.tensors(dtype)
    assert isinstance(tensors, SentTensors)
    with line.laid():
        trainer.send(Transfer("10.0.0.1", 4242, 1, 2, tensors), dtype)
    return dict(zip(tensors.names, iter(line.under_way.queue), strict=False))
