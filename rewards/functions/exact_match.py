"""Reward by comparison with a reference answer, as text."""

from __future__ import annotations

from collections.abc import Sequence

from rewards.functions.text import completion_texts, reference_column


def exact_match(
    prompts: Sequence[object],
    completions: Sequence[object],
    *,
    column: str = "answer",
    strip: bool = True,
    ignore_case: bool = False,
    **columns: object,
) -> list[float | None]:
    """Return 1.0 where the response is the reference in `column`, else 0.0.

    The score is None without a reference; of a list of references, any is accepted. Raises
    `InputError` when no row has the column.
    """
    references = reference_column(columns, column, len(completions))
    return [
        _score(_normal(text, strip, ignore_case), reference, strip, ignore_case)
        for text, reference in zip(completion_texts(completions), references, strict=True)
    ]


def _normal(text: str, strip: bool, ignore_case: bool) -> str:
    text = text.strip() if strip else text
    return text.casefold() if ignore_case else text


def _score(text: str, reference: object, strip: bool, ignore_case: bool) -> float | None:
    if reference is None:
        return None
    accepted = reference if isinstance(reference, list | tuple) else [reference]
    return float(any(text == _normal(str(one), strip, ignore_case) for one in accepted))
