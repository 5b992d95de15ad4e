"""Check that rewards and judges can read a row, by their tokenizers, without their weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Protocol

from rewards.spec import JudgeSpec, ModelSpec, PairwiseSpec, RemoteSpec, RewardSpec
from rewards.types import RewardError
from rollout.errors import InputError
from rollout.types import Group, conversation, judged_sides

__all__ = ["Reading"]

_Check = Callable[[Group], None]


class Readable(Protocol):
    """A row of a file."""

    @property
    def where(self) -> str: ...

    @property
    def groups(self) -> Sequence[Group]: ...


class Reading:
    """Checks rows by every part of a reward or judge that has a tokenizer here.

    Chat templates refuse some roles, judges all but user and assistant in turn. With `length` it is
    also checked that something of each response is left within `max_length` and, for a judge, that
    any two responses fit. A server that is sent messages reads them itself, and is not checked;
    with `local`, neither is a part whose files would have to be downloaded.
    """

    def __init__(
        self, reward: RewardSpec | JudgeSpec, *, length: bool, local: bool = False
    ) -> None:
        self._reward = reward
        self._length = length
        self._local = local

    def check(self, row: Readable) -> None:
        """Check a row. Raises InputError, beginning with the row's place, where it is refused."""
        self.check_groups(row.groups, row.where)

    def check_groups(self, groups: Sequence[Group], where: str) -> None:
        """Check groups. Raises InputError, beginning with `where`, where one is refused."""
        for check in self._checks:
            for group in groups:
                try:
                    check(group)
                except (InputError, RewardError) as error:
                    raise InputError(where, error) from error

    @cached_property
    def _checks(self) -> list[_Check]:
        return [check for part in self._reward.parts() for check in self._of(part)]

    def _of(self, part: RewardSpec) -> Iterator[_Check]:
        files = getattr(part, "tokenizer" if isinstance(part, RemoteSpec) else "model", None)
        if self._local and not (files and Path(files).expanduser().is_dir()):
            return
        if isinstance(part, ModelSpec):
            from rewards.models.load import load_encoder

            yield self._each(load_encoder(part).check)
        elif isinstance(part, PairwiseSpec):
            from rewards.judges.load import load_prompt

            prompt = load_prompt(part.model, part.max_length)
            yield lambda group: prompt.check(*judged_sides(group), length=self._length)
        elif isinstance(part, RemoteSpec) and part.protocol not in (None, "raft"):
            from rewards.remote.texts import Texts

            texts = Texts(
                part.tokenizer, format=part.format, bos=part.bos, eos=part.eos,
                separator=part.separator or "", max_length=part.max_length,
                truncation_side=part.truncation_side,
            )  # fmt: skip
            yield self._each(texts.check)

    def _each(self, check: Callable[..., None]) -> _Check:
        def of_group(group: Group) -> None:
            for one in group.completions:
                check(conversation(group.prompt, one), length=self._length)

        return of_group
