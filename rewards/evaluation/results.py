"""Define the types of the report of `raft eval-reward`, and turn them into JSON."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass

from rewards.evaluation.accuracy import Accuracy, LengthBias
from rewards.evaluation.benchmarks import Benchmark
from rewards.evaluation.calibration import Calibration
from rewards.evaluation.contamination import Contamination
from rollout.data.bad_rows import Reason

__all__ = [
    "BootstrapFacts",
    "EvalReport",
    "ModelComparison",
    "ModelResult",
    "PositionBias",
    "SetFacts",
    "as_object",
]

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
# fields whose key the JSON lacks where they are None
_OPTIONAL = {"optional": True}


@dataclass(frozen=True, slots=True)
class SetFacts:
    """What an evaluation set holds; `prompts` counts distinct prompts."""

    file: str
    form: str
    rows: int
    pairs: int
    responses: int
    prompts: int
    skipped: int
    skipped_reasons: dict[str, Reason]


@dataclass(frozen=True, slots=True)
class BootstrapFacts:
    resamples: int
    seed: int


@dataclass(frozen=True, slots=True)
class PositionBias:
    """How much more probable a response wins for being shown first, in probability.

    `mean` is signed, so that biases of both signs cancel; `mean_size` is the mean without the sign.
    """

    mean: float
    mean_size: float


@dataclass(frozen=True, slots=True)
class ModelResult:
    """The measurements of one model, function, judge or column of scores.

    Args:
        calibration: None where margins are not log-odds.
        length: None where no text is known.
        position_bias: None for all but judges.
        failures: why rows could not be scored, the first few; `failed_rows` counts them all.
        seconds: how long scoring took; None for stored scores.
    """

    settings: Mapping[str, object]
    accuracy: Accuracy
    benchmark: Benchmark | None
    by_source: dict[str, Accuracy]
    by_turns: dict[int, Accuracy]
    calibration: Calibration | None
    length: LengthBias | None
    position_bias: PositionBias | None
    failed_rows: int
    failures: tuple[str, ...]
    seconds: float | None


@dataclass(frozen=True, slots=True)
class ModelComparison:
    """Accuracy of model a minus that of b, on the pairs for which both have a margin."""

    a: str
    b: str
    difference: float
    low: float
    high: float
    a_better: float
    pairs: int


@dataclass(frozen=True, slots=True)
class EvalReport:
    """All results. Shares are in [0, 1], scores of benchmarks in percent, unknown ones NaN or None.

    `models` are by label, `comparisons` of each two of them; `contamination` is None where no
    training file was named.
    """

    data: SetFacts
    bootstrap: BootstrapFacts
    models: dict[str, ModelResult]
    comparisons: list[ModelComparison]
    contamination: Contamination | None = field(default=None, metadata=_OPTIONAL)


def as_object(value: object) -> dict[str, Json]:
    """Return a dataclass as a JSON object whose keys are its fields."""
    if isinstance(value, Accuracy):
        return _accuracy(value)
    assert is_dataclass(value), type(value)
    return {
        one.metadata.get("json", one.name): _as_json(getattr(value, one.name))
        for one in fields(value)
        if not (one.metadata.get("optional") and getattr(value, one.name) is None)
    }


def _as_json(value: object) -> Json:
    """Return a value as JSON; NaN and infinity, which JSON does not have, become null."""
    if is_dataclass(value):
        return as_object(value)
    if isinstance(value, Mapping):
        return {str(key): _as_json(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_as_json(one) for one in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    assert value is None or isinstance(value, bool | int | str), type(value)
    return value


def _accuracy(one: Accuracy) -> dict[str, Json]:
    shares = {
        "accuracy": one.strict,
        "low": one.interval.low,
        "high": one.interval.high,
        "accuracy_ties_half": one.half,
        "tie_share": one.tie_share,
        "accuracy_missing_lost": one.of_all,
    }
    counts = ("pairs", "wins", "ties", "losses", "missing", "clusters")
    known = {name: _as_json(share) for name, share in shares.items()}
    return {**known, **{name: getattr(one, name) for name in counts}}
