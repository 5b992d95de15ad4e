"""Whether every id of a file stands once, in eight bytes per row."""

from __future__ import annotations

from array import array
from collections.abc import Iterable
from hashlib import blake2b

from rollout.errors import InputError

__all__ = ["RowIds"]


class RowIds:
    """Digests of the ids seen; where an id stood, a second reading tells if it is ever asked."""

    def __init__(self) -> None:
        self._digests = array("Q")

    def add(self, id: str) -> None:
        self._digests.append(_digest(id))

    def check(self, ids_and_places: Iterable[tuple[str, str]]) -> None:
        """Raises InputError that names both places of the first id that stands twice.

        `ids_and_places` are those of all rows once more, in order; read only where there are such.
        """
        import numpy as np

        digests_N = np.sort(np.frombuffer(self._digests, dtype=np.uint64))
        twice = set(digests_N[1:][digests_N[1:] == digests_N[:-1]].tolist())
        if not twice:
            return
        places: dict[str, str] = {}
        for id, where in ids_and_places:
            if id in places:
                raise InputError(
                    f"{where}: id {id!r} stands at {places[id]} already; "
                    "give each row its own id, or none"
                )
            if _digest(id) in twice:
                places[id] = where


def _digest(id: str) -> int:
    return int.from_bytes(
        blake2b(id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big"
    )
