"""Trainers of one update in a process each.

They are forked from one process that has the libraries loaded: importing them takes ten times as
long as the updates.
"""

from __future__ import annotations

import inspect
import json
import multiprocessing
import textwrap
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import tiny_models as tiny
import torch

from raft.config.train import TrainConfig
from raft.updates.sft import SFT
from raft.updates.trainer import Update, build_trainer, rendezvous_address

_FORKED = multiprocessing.get_context("forkserver")
_FORKED.set_forkserver_preload(["torch", "trl", "raft.updates.sft", "raft.updates.dpo"])
_OF_THE_RANK = ("checkpoint", "rank", "world_size")


def build_sft(model: str, **settings: Any) -> Any:
    """A trainer from the keys of `train` and those of the rank, side by side."""
    own = {key: settings.pop(key) for key in _OF_THE_RANK if key in settings}
    return build_trainer(model, TrainConfig(**settings), **own)


def selected_rows(path: Path) -> Path:
    """Seven samples of different length, every other one finished, and preferred to another."""
    made = tiny.tokenizer()
    lines = []
    for number in range(7):
        prompt = made(f"Once upon {'a time ' * (number % 3)}")["input_ids"]
        response = made(" the cat sat" * (1 + number % 4), add_special_tokens=False)["input_ids"]
        ended = [tiny.EOS_ID] if number % 2 else []
        row = {"id": f"p{number}", "sample": 0, "response": "", "prompt_token_ids": prompt}
        row["token_ids"] = response + ended
        row["rejected"] = {"response": "", "score": None, "token_ids": response[::-1]}
        lines.append(json.dumps(row))
    path.write_text("\n".join(lines) + "\n")
    return path


def run_ranks(
    settings: dict[str, Any],
    rows: Path,
    outs: Sequence[str],
    *,
    first_seed: int = 0,
    probe: Sequence[int] = (),
) -> list[list[dict[str, Any]]]:
    """Two ranks in a process each; the metrics of their updates, which have seeds in order.

    With `probe` its log-probabilities are asked for around every update and stand in "log_probs".
    """
    _, port = rendezvous_address()
    processes, ends = [], []
    for rank in (0, 1):
        mine, its = _FORKED.Pipe(duplex=False)
        own = settings | {"world_size": 2, "rank": rank}
        arguments = (its, own, port, first_seed, list(probe), str(rows), outs)
        processes.append(_FORKED.Process(target=_rank, args=arguments, daemon=True))
        processes[-1].start()
        its.close()
        ends.append(mine)
    try:
        return _answers(ends)
    finally:
        for process in processes:
            process.kill()


def _answers(ends: Sequence[Connection]) -> list[list[dict[str, Any]]]:
    """What each rank found. One that fails leaves the other waiting, so who answers first is read
    first."""
    found: dict[Connection, list[dict[str, Any]]] = {}
    while len(found) < len(ends):
        ready = wait([end for end in ends if end not in found], timeout=300)
        assert ready, "no rank has ended within 300 s"
        for end in ready:
            assert isinstance(end, Connection)
            answer = end.recv()
            assert isinstance(answer, list), answer
            found[end] = answer
    return [found[end] for end in ends]


def allow_shards_on_cpu() -> None:
    """FSDP2 works with gloo; accelerate only does not list several CPUs where it takes the plugin,
    and we refuse what no machine with GPUs would ask for."""
    import accelerate.state as theirs

    source = textwrap.dedent(inspect.getsource(theirs.AcceleratorState.__init__))
    listed = "DistributedType.MULTI_GPU,\n"
    assert source.count(listed) == 1, "accelerate has changed: look where it takes fsdp_plugin"
    namespace: dict[str, Any] = theirs.__dict__
    exec(source.replace(listed, f"{listed} DistributedType.MULTI_CPU,"), namespace)
    theirs.AcceleratorState.__init__ = namespace.pop("__init__")
    patched: Any = TrainConfig
    patched.check = lambda *_: None


def reduction_types(trainer: SFT) -> list[str]:
    """In what the gradients of shards are summed."""
    from torch.distributed.fsdp import FSDPModule

    modules = [one for one in trainer._trainer.model.modules() if isinstance(one, FSDPModule)]
    return sorted({str(one._get_fsdp_state()._mp_policy.reduce_dtype) for one in modules})


def _rank(end: Connection, *arguments: Any) -> None:
    try:
        end.send(updates(*arguments))
    except BaseException:
        end.send(traceback.format_exc())
        raise


def updates(
    given: dict[str, Any],
    port: int,
    first_seed: int,
    ids: list[int],
    rows: str,
    outs: Sequence[str],
) -> list[dict[str, Any]]:
    """The metrics of an update for each of `outs`, as one rank of two makes it, a dry one before
    them where `lengths` are given."""
    torch.set_num_threads(1)
    if given.get("fsdp"):
        allow_shards_on_cpu()
    if given.pop("mixed", False):  # what a GPU does
        patched: Any = SFT
        patched._autocast = True
    lengths, sends = given.pop("lengths", ()), given.pop("sends", None)
    shares = given.pop("shares", None)
    again = given.pop("again", False)  # updates whose policy is there, as of trainers that died
    trainer = build_sft(**given)
    trainer.join("127.0.0.1", port)
    if lengths:
        trainer.rehearse(*lengths)
    before = trainer.log_probs(ids) if ids else []
    found = []
    for seed, out in enumerate(outs, first_seed):
        metrics: dict[str, Any] = trainer.train(Update(rows, seed, None if again else out))
        torch.distributed.barrier()  # a run asks for it when all have trained
        trainer.store(out)
        if given.get("fsdp"):
            metrics["reduced_in"] = reduction_types(trainer)
        if ids:
            metrics["log_probs"] = [before, before := trainer.log_probs(ids)]
        if sends:
            from transfer_line import sent_by

            sent = sent_by(trainer, sends)
            metrics["sent"] = {name: value.float().tolist() for name, value in sent.items()}
        if shares:
            from shared_memory import shared_by

            values = shared_by(trainer, shares)
            metrics["shared"] = {name: value.float().tolist() for name, value in values.items()}
        found.append(metrics)
    return found
