"""What the functions of `raft` return: where files are, the main numbers, and tables of both."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rollout.data.jsonl import is_list

if TYPE_CHECKING:
    from pandas import DataFrame

    from raft.api.inputs import File
    from raft.bon.command import Result
    from raft.stored.replay import Report
    from rewards.evaluation.results import EvalReport
    from rewards.training.card import TrainedMetrics

__all__ = [
    "BestOfNResult",
    "CurvesResult",
    "RankResult",
    "ReplayResult",
    "ReportResult",
    "RewardEvaluation",
    "RunResult",
    "SampleResult",
    "ScoreResult",
    "TrainRewardResult",
    "read_rows",
]

# columns with a value for each response, and what they are called where a row is one response
_EACH = {"responses": "response", "finish_reasons": "finish_reason", "seeds": "seed",
         "token_ids": "token_ids", "sample_numbers": "sample"}  # fmt: skip
_SCORES = "scores"


def read_rows(path: Path) -> list[dict[str, object]]:
    """The rows of a JSONL file. Raises InputError for a damaged one."""
    from rollout.data.jsonl import read_jsonl

    return list(read_jsonl(path, lambda row: cast("dict[str, object]", row.value)))


def _by_response(rows: Iterable[Mapping[str, object]]) -> DataFrame:
    """A line for each response: lists of values for each of them are spread, `sample` counts."""
    from pandas import DataFrame

    found: list[dict[str, object]] = []
    for row in rows:
        responses = row.get("responses")
        if not is_list(responses):
            found.append(dict(row))
            continue
        names = {key: _single(key) for key in row if key in _EACH or key.endswith(_SCORES)}
        lists = {key: values for key in names if is_list(values := row[key])}
        spread = {key: values for key, values in lists.items() if len(values) == len(responses)}
        same = {key: value for key, value in row.items() if key not in spread}
        for at in range(len(responses)):
            own = {names[key]: values[at] for key, values in spread.items()}
            found.append({**same, "sample": at, **own})
    return DataFrame(found)


def _single(column: str) -> str:
    return _EACH.get(column) or column.removesuffix("s")


@dataclass(frozen=True)
class RunResult:
    """A run folder, and its metrics: a row per iteration, as `metrics.jsonl` has them."""

    run_dir: Path
    metrics: list[dict[str, object]] = field(repr=False)

    @property
    def curves(self) -> Path:
        return self.run_dir / "curves.png"

    @property
    def checkpoint(self) -> Path | None:
        """The last policy, in Hugging Face format; None before the first iteration."""
        from raft.runs.folder import stored_policies

        return next(reversed(stored_policies(self.run_dir).values()), None)

    def to_pandas(self) -> DataFrame:
        """A line per iteration, a column per metric."""
        from pandas import DataFrame

        return DataFrame(self.metrics)


@dataclass(frozen=True)
class _FileResult:
    """Rows in a JSONL file (None: they went to standard output), and the command's summary."""

    path: Path | None
    summary: dict[str, object] = field(repr=False)
    # rows in memory became a file in a folder that lives as long as this
    source: File = field(repr=False, compare=False)

    def rows(self) -> list[dict[str, object]]:
        """The rows of the file, in order."""
        return [] if self.path is None else read_rows(self.path)

    def to_pandas(self) -> DataFrame:
        """A line per response where rows hold several, else a line per row."""
        return _by_response(self.rows())

    def _number(self, name: str) -> float | None:
        return cast("float | None", self.summary.get(name))


@dataclass(frozen=True)
class SampleResult(_FileResult):
    """The drawn responses: a row per prompt. `summary` has counts, tokens and seconds."""


@dataclass(frozen=True)
class ScoreResult(_FileResult):
    """The rows with their scores."""

    @property
    def mean(self) -> float | None:
        """Of all scores; None where there is none."""
        return self._number("mean")

    @property
    def std(self) -> float | None:
        return self._number("std")

    @property
    def missing(self) -> int:
        """How many scores could not be had."""
        return int(self._number("missing") or 0)


@dataclass(frozen=True)
class RankResult(_FileResult):
    """The rows with their rankings, best first. `summary` has what the tournaments came to."""


@dataclass(frozen=True)
class BestOfNResult:
    """The best-of-n curve. `result` is what STEM.bon.json holds, with the paths of the files."""

    result: Result = field(repr=False)
    source: File = field(repr=False, compare=False)

    @property
    def files(self) -> dict[str, Path]:
        """`curve` (JSON), `best` (the best response of each prompt, JSONL) and `picture`."""
        return {name: Path(path) for name, path in self.result["out"].items()}

    def best(self) -> list[dict[str, object]]:
        """The rows of the best response of each prompt."""
        return read_rows(self.files["best"])

    def to_pandas(self) -> DataFrame:
        """A line per n: KL, and the means of proxy and gold with their intervals."""
        from pandas import json_normalize

        return json_normalize(cast("list[dict[str, object]]", self.result["curve"]), sep="_")


@dataclass(frozen=True)
class TrainRewardResult:
    """A trained reward model: its run folder, and the metrics of the finished model."""

    run_dir: Path
    metrics: TrainedMetrics = field(repr=False)

    @property
    def model(self) -> Path:
        return self.run_dir / "model"

    def to_pandas(self) -> DataFrame:
        """A line per row of `metrics.jsonl`: the steps of the training."""
        from pandas import DataFrame

        return DataFrame(read_rows(self.run_dir / "metrics.jsonl"))


@dataclass(frozen=True)
class RewardEvaluation:
    """How good rewards are on a set. `files` were written, none where no place was named."""

    report: EvalReport
    files: list[Path] = field(default_factory=list[Path])

    def to_pandas(self) -> DataFrame:
        """A line per reward: accuracy with its interval, and counts of pairs."""
        from pandas import DataFrame

        from rewards.evaluation.results import as_object

        models = self.report.models.items()
        return DataFrame([{"reward": name, **as_object(one.accuracy)} for name, one in models])


@dataclass(frozen=True)
class ReplayResult:
    """What other rules would have selected. `files` is empty where no folder was named."""

    report: Report
    files: list[Path] = field(default_factory=list[Path])

    def to_pandas(self) -> DataFrame:
        """A line per rule and K."""
        from pandas import json_normalize

        return json_normalize([dict(one) for one in self.report.results], sep="_")


@dataclass(frozen=True)
class CurvesResult:
    """Pictures. `points` reads the numbers that they show."""

    files: list[Path]
    points: Callable[[], Sequence[Mapping[str, object]]] = field(repr=False, compare=False)

    def to_pandas(self) -> DataFrame:
        """A line per drawn point: panel, setting, metric, iteration, value, half its interval."""
        from pandas import DataFrame

        return DataFrame([dict(one) for one in self.points()])


@dataclass(frozen=True)
class ReportResult:
    """The HTML page about runs."""

    path: Path
    metrics: list[dict[str, object]] = field(repr=False)

    def to_pandas(self) -> DataFrame:
        """A line per run and iteration, a column per metric."""
        from pandas import DataFrame

        return DataFrame(self.metrics)
