"""The optimizer's state in a checkpoint: one file, or of a sharded policy one for each trainer.

It is two or more times as large as what an engine reads, so a trainer writes it after the policy,
while the next responses are drawn: nothing changes it before the next update, which waits. A
checkpoint names the files to come; until all are there, training goes on from the one before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rollout.errors import InputError
from rollout.storage.files import read_json, sync_to_disk, whole_binary, write_json

if TYPE_CHECKING:
    import torch
    from torch.distributed.tensor import DTensor
    from transformers import TrainerCallback

__all__ = ["OptimizerFiles", "is_whole"]

_WHOLE_FILE = "optimizer.pt"  # also the file of checkpoints without a list of names
_NAMES = "optimizer.json"


def is_whole(checkpoint: Path) -> bool:
    """Return whether training can go on from a checkpoint: all files that it names are there."""
    named = checkpoint / _NAMES
    return not named.exists() or all((checkpoint / name).exists() for name in read_json(named))


class OptimizerFiles:
    """The optimizer files of one rank: those it goes on from, and those it writes.

    Args:
        sharded: every one of the `ranks` writes its rows; else the first writes all.
        begun: the checkpoint to go on from; None: the optimizer starts afresh.

    Raises:
        InputError: optimizer files of `begun` are missing.
    """

    def __init__(self, rank: int, ranks: int, sharded: bool, begun: Path | None) -> None:
        self._rank, self._sharded = rank, sharded
        self._shards = ranks if sharded else 1
        self._begun = _stored_files(begun) if begun else []  # until an update needs them
        self._last: str | None = None  # the checkpoint that has the optimizer as it is
        self._names: Mapping[int, str] = {}

    def load(self, trainer: Any) -> None:
        """Load the state in `begun` into the trainer before its first update; later, do nothing.

        Raises InputError where the state is in shards and the trainer's is not.
        """
        import torch

        files, self._begun, self._last = self._begun, [], None
        if not files:
            return
        if self._sharded:
            trainer.add_callback(_restore_rows_at_start(files))
            return
        if len(files) > 1:
            problem = f"is one of {len(files)} shards"
            raise InputError(files[0], problem, "set train.fsdp: true, as when it was written")
        # mapped: the trainers of a machine read one copy of it, of 8 bytes a weight
        state = torch.load(files[0], weights_only=True, map_location="cpu", mmap=True)
        trainer.create_optimizer()
        trainer.optimizer.load_state_dict(state)

    def name(self, checkpoint: Path) -> None:
        """Write into a new checkpoint the names of the optimizer files that will be in it."""
        write_json(checkpoint / _NAMES, [self._file(rank) for rank in range(self._shards)])

    def know(self, model: torch.nn.Module) -> None:
        """Remember the names of the weights: moving a sharded policy replaces its tensors."""
        self._names = _names_of(model)

    def write(self, trainer: Any, checkpoint: str) -> None:
        """Write this rank's file, if it has one, so that it and all beside it survive a power cut.

        Tensors are copied from a GPU one at a time, as they are written.
        """
        import torch

        # a trainer that began from a checkpoint and has made no update has nothing new to write
        if self._last == checkpoint or self._begun or self._rank >= self._shards:
            return
        folder, state = Path(checkpoint), trainer.optimizer.state_dict
        if self._rank == 0:  # other ranks' files come and go meanwhile
            beside = (one for one in folder.rglob("*") if one.is_file() and one.name[0] != ".")
            sync_to_disk([*beside, folder.parent])
        rows = _rows_of_rank(self._names, trainer.optimizer.optimizer) if self._sharded else state()
        with whole_binary(folder / self._file(self._rank)) as file:
            torch.save(rows, file)
        sync_to_disk([folder])
        self._last = checkpoint

    def _file(self, rank: int) -> str:
        return f"optimizer-{rank}-of-{self._shards}.pt" if self._shards > 1 else _WHOLE_FILE


def _stored_files(checkpoint: Path) -> list[Path]:
    """Return the optimizer files of a checkpoint, in the order of their ranks.

    Raises InputError where one is missing.
    """
    named = checkpoint / _NAMES
    files = [checkpoint / name for name in (read_json(named) if named.exists() else [_WHOLE_FILE])]
    for path in files:
        if not path.exists():
            problem = "missing, and train.optimizer is persistent"
            raise InputError(path, problem, "restore it or set train.optimizer=fresh in a new run")
    return files


def _names_of(model: torch.nn.Module) -> dict[int, str]:
    """Return the names of the weights by the weights' identities (`id`)."""
    return {id(weight): name for name, weight in model.named_parameters()}


def _rows_of_rank(names: Mapping[int, str], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Return this rank's rows of a sharded optimizer's state, by the names of the weights."""
    return {
        "state": {
            names[id(weight)]: {key: _local(value) for key, value in state.items()}
            for weight, state in optimizer.state.items()
        }
    }


def _restore_rows_at_start(files: Sequence[Path]) -> TrainerCallback:
    """Return a callback that gives each rank its rows of a stored state when training starts.

    Any number of ranks may have written the state. It is loaded then because there are no shards
    before. Settings of the optimizer (such as its rate) stay those of this training.
    """
    import torch
    from transformers import TrainerCallback

    class Restore(TrainerCallback):
        pending = True

        def on_train_begin(
            self, args: object, state: object, control: object, **kwargs: Any
        ) -> None:
            if not self.pending:
                return
            self.pending = False
            # mapped: of the files of all ranks, a rank reads only its own rows
            parts = [
                torch.load(file, weights_only=True, map_location="cpu", mmap=True)["state"]
                for file in files
            ]
            optimizer = kwargs["optimizer"].optimizer
            names = _names_of(kwargs["model"])
            weights = [one for group in optimizer.param_groups for one in group["params"]]
            found = {
                number: {
                    key: _own_rows([part[name][key] for part in parts], weight)
                    for key in parts[0][name]
                }
                for number, weight in enumerate(weights)
                if (name := names[id(weight)]) in parts[0]
            }
            optimizer.load_state_dict({**optimizer.state_dict(), "state": found})

    return Restore()


def _local(value: Any) -> Any:
    return value.to_local() if hasattr(value, "to_local") else value


def _own_rows(parts: Sequence[torch.Tensor], weight: torch.Tensor) -> torch.Tensor:
    """Return this rank's rows of a stored tensor, sharded as `weight` is; a scalar as it is.

    `parts` are the rows of the tensor, end to end. Raises InputError where they are too few or
    too many.
    """
    import torch
    from torch.distributed.tensor import DTensor

    if not parts[0].dim():
        return parts[0]
    own = cast("DTensor", weight)
    mesh, local = own.device_mesh, own.to_local()
    # as FSDP2 cuts: all ranks but the last have as many
    start = min(len(own), mesh.get_local_rank() * -(-len(own) // mesh.size()))
    found, at = [parts[0][:0]], 0
    for part in parts:
        found.append(part[max(0, start - at) : max(0, start + len(local) - at)])
        at += len(part)
    rows = torch.cat(found).to(local.device)
    if at != len(own) or len(rows) != len(local):
        raise InputError(
            "train.fsdp", f"a stored optimizer has {at} rows for {len(own)} of a weight"
        )
    return DTensor.from_local(
        rows, mesh, own.placements, run_check=False, shape=own.shape, stride=own.stride()
    )
