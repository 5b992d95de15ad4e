"""Find the tensors of a scalar reward model's head by their names.

Frameworks give the same layer different names, and prefix them with the names of wrappers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from rollout.types import InputError

__all__ = ["SUMMARY", "HeadTensors", "bare_names", "find_head", "heads_in_words"]

Shapes = Mapping[str, tuple[int, ...]]

SUMMARY = "v_head.summary"  # TRL, LLaMA-Factory, GRM
# transformers and TRL's trainer, INF-ORM and Qwen's with two layers; OpenRLHF; UltraRM and Eurus;
# Beaver; DeepSpeed-Chat and its kin
STEMS = ("score", SUMMARY, "value_head", "regression_head", "score_head", "reward_head", "v_head")
# the prefixes of torch (DDP, compile, FSDP), Lightning, TRL and PEFT: those without a number part
_PATTERN = r"(?:[A-Za-z_]\w*\.)*?{stem}(?:\.(?P<number>\d+))?\.(?P<part>weight|bias)"
_OF_A_TRANSFORMER = re.compile(r"\.\d+\.|embed|norm|\bw[tp]e\b|\bln_f\b|\blm_head\b|rotary|\blora_")


@dataclass(frozen=True)
class HeadTensors:
    """The tensors of one head: `names` maps the name without wrappers to the name in the files."""

    stem: str
    names: dict[str, str] = field(default_factory=dict)


def bare_names(names: Iterable[str], beginnings: Iterable[str]) -> dict[str, str]:
    """Return {name without wrappers: name} for names that then begin with one of `beginnings`."""
    begins = "|".join(map(re.escape, beginnings))
    pattern = re.compile(rf"(?:[A-Za-z_]\w*\.)*?((?:{begins}).*)")
    return {match[1]: name for name in names if (match := pattern.fullmatch(name))}


def find_head(
    folder: Path, config: Mapping[str, object], names: Iterable[str], stem: str | None = None
) -> HeadTensors:
    """Return the tensors among `names` that are a reward head; no tensors where none is known.

    The head is called `stem` if that is given, else `value_head_prefix` in the config (OpenRLHF) if
    such tensors are there, else one of `STEMS`. Raises `InputError` for two heads, or for one
    tensor that is there twice under different wrappers.
    """
    whole, told = list(names), config.get("value_head_prefix")
    if stem is not None:
        return _named(folder, stem, whole)
    if isinstance(told, str) and (head := _named(folder, told, whole)).names:
        return head
    found = [head for one in STEMS if (head := _named(folder, one, whole)).names]
    if len(found) > 1:
        two = " and ".join(next(iter(head.names.values())) for head in found[:2])
        raise InputError(folder, f"has two reward heads, {two}", "remove one of them")
    return found[0] if found else HeadTensors("")


def _named(folder: Path, stem: str, names: Iterable[str]) -> HeadTensors:
    pattern = re.compile(_PATTERN.format(stem=re.escape(stem)))
    found: dict[str, str] = {}
    for name in names:
        match = pattern.fullmatch(name)
        if match is None:
            continue
        number = "" if match["number"] is None else f".{match['number']}"
        bare = f"{stem}{number}.{match['part']}"
        if bare in found:
            raise InputError(folder, f"has both {found[bare]} and {name}", "remove one of them")
        found[bare] = name
    return HeadTensors(stem, found)


def heads_in_words(shapes: Shapes) -> str:
    """Return a clause for error messages that names the tensors beside the transformer."""
    others = [
        f"{name} {list(shape)}"
        for name, shape in shapes.items()
        if not _OF_A_TRANSFORMER.search(re.sub(r"\.\d+\.(weight|bias)$", "", name))
    ]
    more = f" and {len(others) - 4} more" if len(others) > 4 else ""
    return f"beside its transformer are {', '.join(others[:4]) or 'no other tensors'}{more}"
