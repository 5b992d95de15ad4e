"""Results of the functions of `raft`: paths of files, the main numbers, and both as tables."""

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

# columns with a list of one value per response -> the column's name in a table of responses
_EACH = {"responses": "response", "finish_reasons": "finish_reason", "seeds": "seed",
         "token_ids": "token_ids", "sample_numbers": "sample"}  # fmt: skip
_SCORES = "scores"


def read_rows(path: Path) -> list[dict[str, object]]:
    """Return the rows of a JSONL file. Raises InputError for a damaged row."""
    from rollout.data.jsonl import read_jsonl

    return list(read_jsonl(path, lambda row: cast("dict[str, object]", row.value)))


def _by_response(rows: Iterable[Mapping[str, object]]) -> DataFrame:
    """Return a table with a line per response, or per row where a row has no list of responses.

    Lists with one value per response are split over these lines, other columns are repeated, and
    `sample` numbers the responses of a row from 0 where the row does not number them itself.
    """
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
    """A run folder and its metrics: one row per iteration, as in `metrics.jsonl`."""

    run_dir: Path
    metrics: list[dict[str, object]] = field(repr=False)

    @property
    def curves(self) -> Path:
        return self.run_dir / "curves.png"

    @property
    def checkpoint(self) -> Path | None:
        """Return the folder of the last policy, in Hugging Face format; None where there is none.

        There is none before the first iteration.
        """
        from raft.runs.folder import stored_policies

        return next(reversed(stored_policies(self.run_dir).values()), None)

    def to_pandas(self) -> DataFrame:
        """Return a table with a line per iteration and a column per metric."""
        from pandas import DataFrame

        return DataFrame(self.metrics)


@dataclass(frozen=True)
class _FileResult:
    """A JSONL file of rows and the command's summary; `path` is None for standard output."""

    path: Path | None
    summary: dict[str, object] = field(repr=False)
    # keeps the temporary file of rows that were given in memory
    source: File = field(repr=False, compare=False)

    def rows(self) -> list[dict[str, object]]:
        """Return the rows of the file in order; none where they went to standard output.

        Raises InputError for a damaged row.
        """
        return [] if self.path is None else read_rows(self.path)

    def to_pandas(self) -> DataFrame:
        """Return a table with a line per response where rows hold several, else a line per row."""
        return _by_response(self.rows())

    def _number(self, name: str) -> float | None:
        return cast("float | None", self.summary.get(name))


@dataclass(frozen=True)
class SampleResult(_FileResult):
    """The drawn responses, one row per prompt; `summary` has counts, tokens and seconds."""


@dataclass(frozen=True)
class ScoreResult(_FileResult):
    """The rows with their scores."""

    @property
    def mean(self) -> float | None:
        """Return the mean of all scores; None where there is no score."""
        return self._number("mean")

    @property
    def std(self) -> float | None:
        return self._number("std")

    @property
    def missing(self) -> int:
        """Return how many scores are missing."""
        return int(self._number("missing") or 0)


@dataclass(frozen=True)
class RankResult(_FileResult):
    """The rows with their rankings, best first; `summary` has the report of the tournaments."""


@dataclass(frozen=True)
class BestOfNResult:
    """The best-of-n curve; `result` has the content of STEM.bon.json and the paths of the files."""

    result: Result = field(repr=False)
    source: File = field(repr=False, compare=False)

    @property
    def files(self) -> dict[str, Path]:
        """Return the paths of `curve` (JSON), `picture`, and `best`.

        `best` is a JSONL file of the best response of each prompt.
        """
        return {name: Path(path) for name, path in self.result["out"].items()}

    def best(self) -> list[dict[str, object]]:
        """Return one row per prompt with its best response. Raises InputError for a damaged row."""
        return read_rows(self.files["best"])

    def to_pandas(self) -> DataFrame:
        """Return a table with a line per n: KL in nats, means of proxy and gold, 95 % intervals."""
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
        """Return the rows of `metrics.jsonl` as a table: a line per logged step of the training."""
        from pandas import DataFrame

        return DataFrame(read_rows(self.run_dir / "metrics.jsonl"))


@dataclass(frozen=True)
class RewardEvaluation:
    """Measures of rewards on a data set; `files` are the reports written, none without an `out`."""

    report: EvalReport
    files: list[Path] = field(default_factory=list[Path])

    def to_pandas(self) -> DataFrame:
        """Return a table with a line per reward: accuracy with its interval, counts of pairs."""
        from pandas import DataFrame

        from rewards.evaluation.results import as_object

        models = self.report.models.items()
        return DataFrame([{"reward": name, **as_object(one.accuracy)} for name, one in models])


@dataclass(frozen=True)
class ReplayResult:
    """What other rules would have selected; `files` is empty where no folder was named."""

    report: Report
    files: list[Path] = field(default_factory=list[Path])

    def to_pandas(self) -> DataFrame:
        """Return a table with a line per rule and K."""
        from pandas import json_normalize

        return json_normalize([dict(one) for one in self.report.results], sep="_")


@dataclass(frozen=True)
class CurvesResult:
    """Pictures of learning curves; calling `points` reads the drawn numbers from the runs."""

    files: list[Path]
    points: Callable[[], Sequence[Mapping[str, object]]] = field(repr=False, compare=False)

    def to_pandas(self) -> DataFrame:
        """Return a table with a line per drawn point.

        Its columns are those of `raft.curves.curves.DrawnPoint`; `ci95` is the half width of the
        95 % interval. Raises InputError where the runs can no longer be read.
        """
        from pandas import DataFrame

        return DataFrame([dict(one) for one in self.points()])


@dataclass(frozen=True)
class ReportResult:
    """The HTML page about one run or several, and the runs' metrics."""

    path: Path
    metrics: list[dict[str, object]] = field(repr=False)

    def to_pandas(self) -> DataFrame:
        """Return a table with a line per run and iteration, and a column per metric."""
        from pandas import DataFrame

        return DataFrame(self.metrics)
