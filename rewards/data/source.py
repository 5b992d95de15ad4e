"""Describe one source of preference data and how it is read; values are checked on construction."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal, get_args, get_type_hints

from rewards.data.formats import find_format
from rewards.data.record import DivergingPrompts, Options, PairsOf
from rollout.types import InputError

__all__ = ["PairSource", "Sources", "parse_sources"]

log = logging.getLogger("raft")


@dataclass(frozen=True, slots=True, kw_only=True)
class PairSource:
    """One source of data.

    Args:
        path: a file or data set, as `rollout.data.sources.find_source` reads it.
        format: one of `rewards.data.formats.FORMATS`, or "auto": by the columns of the first row.
        split: the split of a dataset; files have none.
        columns: {name here: name there}, see `rollout.data.forms.renamed`.
        source: the name of the pairs' source. Without one it is the row's `source` where that is a
            text, else the file's stem; rows of Unified-Feedback name their own.
        where: column -> the value (or list of values) that a row must have.
        every: use the first of every so many, counted after ties are skipped: Unified-Feedback's
            "40k" is 20 and its "400k" is 2.
        fraction: use about this share, drawn by seed and content.
        limit: stop after so many pairs (or rated responses).
        duplicates: "keep" uses a pair as often as it occurs, as votes of several people do.
        pairs, by, diverging_prompts, ties, prefix: see `rewards.data.record.Options`.
    """

    path: str
    format: str = "auto"
    split: str = "train"
    columns: Mapping[str, str] = field(default_factory=dict[str, str])
    source: str | None = None
    where: Mapping[str, Any] | None = None
    every: int = 1
    fraction: float = 1.0
    limit: int | None = None
    pairs: PairsOf = "all"
    by: str | None = None
    diverging_prompts: DivergingPrompts = "drop"
    ties: Literal["drop", "keep"] = "drop"
    duplicates: Literal["drop", "keep"] = "drop"
    prefix: str | None = None

    def __post_init__(self) -> None:
        """Check the values of all keys. Raises InputError for one that its key does not allow."""
        if self.format != "auto":
            find_format(self.format)
        hints = get_type_hints(PairSource)
        for key in ("pairs", "diverging_prompts", "ties", "duplicates"):
            if getattr(self, key) not in get_args(hints[key]):
                known = ", ".join(get_args(hints[key]))
                raise InputError(key, f"{getattr(self, key)!r} is not known", f"use one of {known}")
        if not isinstance(self.fraction, int | float) or not 0 < self.fraction <= 1:
            raise InputError(
                "fraction",
                f"{self.fraction!r} of {self.path} is no number above 0 and up to 1",
            )
        for key, value in (("every", self.every), ("limit", self.limit)):
            if key == "limit" and value is None:
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise InputError(key, f"{value!r} of {self.path} is no whole number from 1 on")
        if self.where is not None and not isinstance(self.where, Mapping):
            raise InputError("where", f"{self.where!r} is no mapping of columns to values")

    def options(self, seed: int) -> Options:
        return Options(
            pairs=self.pairs,
            by=self.by,
            diverging_prompts=self.diverging_prompts,
            ties=self.ties,
            prefix=self.prefix,
            seed=seed,
        )


Sources = str | Mapping[str, Any] | PairSource | Sequence[str | Mapping[str, Any] | PairSource]


def parse_sources(sources: Sources) -> list[PairSource]:
    several = [sources] if isinstance(sources, str | Mapping | PairSource) else list(sources)
    if not several:
        raise InputError("sources", "no source of pairs is named", "give at least one path")
    return [_parse(one) for one in several]


def _with_new_names(source: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return `source` with renamed settings under their new names, and log a warning for each.

    `parted: drop|cut` is now `diverging_prompts: drop|truncate`; `format: alpaca` is now `pair`.
    """
    if source.get("format") == "alpaca":
        log.warning("a source says format: alpaca; its rows are read as pair now")
        source = {**source, "format": "pair"}
    if "parted" not in source or "diverging_prompts" in source:
        return source
    new = {"cut": "truncate"}.get(source["parted"], source["parted"])
    log.warning("a source says parted: %s; write diverging_prompts: %s", source["parted"], new)
    rest = {key: value for key, value in source.items() if key != "parted"}
    return {**rest, "diverging_prompts": new}


def _parse(source: str | Mapping[str, Any] | PairSource) -> PairSource:
    if isinstance(source, PairSource):
        return source
    if isinstance(source, str):
        return PairSource(path=source)
    source = _with_new_names(source)
    known = {field.name for field in fields(PairSource)}
    for key in source:
        if key not in known:
            raise InputError(
                "sources",
                f"key {key!r} is not known",
                f"use {', '.join(sorted(known))}",
            )
    if not isinstance(source.get("path"), str):
        raise InputError("sources", "a source without a path", "name a file or a dataset")
    return PairSource(**source)
