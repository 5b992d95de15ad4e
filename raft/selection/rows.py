"""Select the rows that the policy is trained on from stored rollouts, and store them."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from raft.selection.filters import Filters, mask_unselectable
from raft.selection.rules import PAIRED, padded, select, shuffled
from rollout.data.jsonl import Damage, is_finite_number, is_object, json_kind, read_jsonl
from rollout.data.samples import REWARD, SampleRow, Scores, ids_column, prompt_column
from rollout.seeds import derive_seed
from rollout.storage.files import write_rows
from rollout.types import InputError, Message

if TYPE_CHECKING:
    from raft.config.select import SelectConfig

log = logging.getLogger("raft")

__all__ = [
    "SelectedRow",
    "read_selected",
    "selectable_scores",
    "selection_seed",
    "trained_samples",
    "write_selected",
]

Rows = Callable[[], Iterable[SampleRow]]  # reads the rollouts from the start: they may exceed RAM
Weigh = Callable[[NDArray[np.float64]], NDArray[np.float64] | None]  # (P, K) scores to weights


@dataclass(frozen=True, slots=True)
class Rejected:
    """The worse response of a pair; rows of earlier versions have only its text and score."""

    response: str
    score: float | None
    sample: int | None = None
    token_ids: list[int] = field(default_factory=list[int])


@dataclass(frozen=True, slots=True)
class SelectedRow:
    """One response that the policy is trained on, with its prompt, as stored in the rollouts.

    Attributes:
        sample: the response's number among the prompt's K samples.
        weight: weight of the response's log-probability in the loss, for the update `reinforce` its
            advantage; None: 1.
        rejected: the worse response, where pairs are selected.
    """

    id: str
    sample: int
    prompt: str | list[Message] | None
    response: str
    score: float | None
    finish_reason: str | None
    policy_version: int | None
    prompt_token_ids: list[int]
    token_ids: list[int]
    weight: float | None = None
    rejected: Rejected | None = None

    @classmethod
    def of(
        cls, row: SampleRow, sample: int, rejected: int | None = None, weight: float | None = None
    ) -> SelectedRow:
        """Return the row of the response at place `sample`.

        Where `rejected` is given, the response at that place is the worse one of the pair.
        """
        scores_K, numbers_K = row.scores[REWARD], row.numbers
        ids_K = row.token_ids or [[]] * len(row.responses)
        return cls(
            id=row.id,
            sample=numbers_K[sample],
            prompt=row.prompt,
            response=row.responses[sample],
            score=scores_K[sample],
            finish_reason=row.finish_reasons[sample] if row.finish_reasons else None,
            policy_version=row.policy_version,
            prompt_token_ids=row.prompt_token_ids or [],
            token_ids=ids_K[sample],
            weight=weight,
            rejected=None
            if (at := rejected) is None
            else Rejected(row.responses[at], scores_K[at], numbers_K[at], ids_K[at]),
        )

    @classmethod
    def from_json(cls, value: object, where: str) -> SelectedRow:
        """Return the row of a JSON value. Raises InputError for one that is no such row.

        Of optional fields a value of the wrong type becomes None.
        """
        if not is_object(value):
            raise InputError(where, f"holds {json_kind(value)} where an object is expected")
        identity, sample, response = value.get("id"), value.get("sample"), value.get("response")
        if not isinstance(identity, str):
            raise InputError(where, "has no 'id'", "select the rows again")
        if isinstance(sample, bool) or not isinstance(sample, int):
            raise InputError(where, f"'sample' is {json_kind(sample)}", "select the rows again")
        if not isinstance(response, str):
            raise InputError(where, f"'response' is {json_kind(response)}", "select the rows again")
        score, reason, version, weight = (
            value.get(name) for name in ("score", "finish_reason", "policy_version", "weight")
        )
        return cls(
            id=identity,
            sample=sample,
            prompt=prompt_column(value.get("prompt"), where),
            response=response,
            score=score if is_finite_number(score) else None,
            finish_reason=reason if isinstance(reason, str) else None,
            policy_version=version if isinstance(version, int) else None,
            prompt_token_ids=ids_column(value.get("prompt_token_ids"), "prompt_token_ids", where),
            token_ids=ids_column(value.get("token_ids"), "token_ids", where),
            weight=weight if is_finite_number(weight) else None,
            rejected=_rejected(value.get("rejected"), where),
        )

    def to_json(self) -> dict[str, object]:
        """Return the row as it is stored, without `weight` and `rejected` where they are None."""
        row: dict[str, object] = {name: getattr(self, name) for name in self.__slots__}
        rejected = self.rejected
        if rejected is not None:
            row["rejected"] = {name: getattr(rejected, name) for name in rejected.__slots__}
        return {
            key: value for key, value in row.items()
            if value is not None or key not in ("weight", "rejected")
        }  # fmt: skip


def write_selected(
    rows: Rows,
    out: Path,
    rule: SelectConfig,
    seed: int = 0,
    iteration: int = 0,
    weigh: Weigh = lambda _: None,
) -> dict[str, float | int]:
    """Write the selected samples of `rows()` to `out`, whole or not at all; return metrics.

    `seed` is the run's. Filters make samples unselectable before the strategy is applied.
    Strategies of pairs write the worse response into the row of the better one, as `rejected`.
    `weigh` gives the weights of responses in the loss; one of weight 0 is stored, but not trained
    on. Where nothing can be trained on, the log says why. The metrics are named `select/…`.
    """
    strategy = rule.strategy
    scores_PK, refused = _selectable(rows, rule.filters())
    if _tells_nothing(scores_PK):
        alone = scores_PK.shape[1] == 1
        why = "sampling.k is 1" if alone else "every response to a prompt has the same reward"
        log.warning("%s: what is selected does not depend on the reward", why)
    own_seed = selection_seed(seed, iteration)
    judged_PK = shuffled(scores_PK, own_seed) if rule.shuffle else scores_PK
    chosen_M2 = select(strategy, judged_PK, seed=own_seed, **rule.arguments())
    weights_PK = weigh(judged_PK)
    trained_M2 = trained_samples(strategy, chosen_M2)
    counts_M = np.ones(len(trained_M2))
    if weights_PK is not None:
        weights_M = weights_PK[tuple(trained_M2.T)]
        trained_M2 = trained_M2[weights_M != 0]
        counts_M = weights_M[weights_M != 0].clip(min=0)  # a negative weight unlearns a response
    if len(trained_M2) == 0:
        log.warning(
            "iteration %d learns nothing: no sample of %d can be selected (unselectable: %s)",
            iteration,
            scores_PK.size,
            ", ".join(f"{key} {count}" for key, count in refused.items() if count)
            or "none; equal scores tell nothing to an update that compares them",
        )
    by_prompt: dict[int, list[int]] = defaultdict(list)
    for prompt, sample in chosen_M2.tolist():
        by_prompt[prompt].append(sample)
    tokens: Counter[str] = Counter()
    written = _selected(rows, by_prompt, strategy in PAIRED, weights_PK, tokens)
    write_rows(out, (row.to_json() for row in written))
    found: dict[str, float | int] = {}
    if len(trained_M2):
        mean = np.average(scores_PK[tuple(trained_M2.T)], weights=counts_M)
        found["select/reward_mean"] = float(mean)
    return {
        **found,
        "select/tokens": tokens["selected"],
        "select/tokens_thrown_away": tokens["drawn"] - tokens["selected"],
        "select/kept": len(trained_M2),
        "select/prompts": len({*trained_M2[:, 0].tolist()}),
        **{f"select/refused_{key}": int(count) for key, count in refused.items()},
    }


def selection_seed(seed: int, iteration: int) -> int:
    """Return the seed of strategies that draw at random, in an iteration of a run with `seed`."""
    return derive_seed(seed, "select", iteration)


def selectable_scores(
    row: SampleRow, filters: Filters, scores: Scores
) -> tuple[NDArray[np.float64], dict[str, int]]:
    """Return a row's (K,) `scores`, NaN where the filters mask one, and counts by reason."""
    scores_1K = np.array([scores], dtype=float)  # None becomes NaN
    scores_1K, counts = mask_unselectable(
        scores_1K, [row.responses], truncated_PK=[row.truncated], **filters
    )
    return scores_1K[0], counts


def read_selected(
    path: Path, *, name: str = "", damage: Damage | None = None
) -> Iterator[SelectedRow]:
    """Yield the rows of a `selected.jsonl`, one at a time.

    With `damage`, a row that cannot be read is skipped and noted there; without, it raises
    InputError. `name` is what errors call the file.
    """
    return read_jsonl(
        path, lambda row: SelectedRow.from_json(row.value, row.where), name=name, damage=damage
    )


def trained_samples(strategy: str, chosen_M2: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return (M', 2): the rows of `select` whose responses are learned, of pairs the better one."""
    return chosen_M2[::2] if strategy in PAIRED else chosen_M2


def _tells_nothing(scores_PK: NDArray[np.float64]) -> bool:
    """Return whether the scores tell no responses apart: no prompt has two different scores.

    So it is where each prompt has one response; False where there is no finite score at all.
    """
    scores_PK = scores_PK[np.isfinite(scores_PK).any(axis=1)]
    lowest_P, highest_P = np.nanmin(scores_PK, axis=1), np.nanmax(scores_PK, axis=1)
    return len(scores_PK) > 0 and bool((lowest_P == highest_P).all())


def _selectable(rows: Rows, filters: Filters) -> tuple[np.ndarray, dict[str, int]]:
    """Return (P, K) scores, NaN where the filters mask one, and counts by reason.

    Rows are read one at a time.
    """
    masked: list[np.ndarray] = []
    total: dict[str, int] = defaultdict(int)
    for row in rows():
        scores_K, counts = selectable_scores(row, filters, row.scores[REWARD])
        masked.append(scores_K)
        for key, count in counts.items():
            total[key] += count
    return padded(masked), dict(total)


def _selected(
    rows: Rows,
    by_prompt: Mapping[int, list[int]],
    pairs: bool,
    weights_PK: NDArray[np.float64] | None,
    tokens: Counter[str],
) -> Iterator[SelectedRow]:
    """Yield the selected rows, and count tokens of responses in `tokens`: "drawn", "selected"."""
    for number, row in enumerate(rows()):
        samples = by_prompt.get(number, [])
        tokens["drawn"] += sum(map(len, row.token_ids))
        tokens["selected"] += sum(len(row.token_ids[one]) for one in {*samples} if row.token_ids)
        if pairs:
            for better, worse in zip(samples[::2], samples[1::2], strict=True):
                yield SelectedRow.of(row, better, rejected=worse)
            continue
        for sample in samples:
            weight = None if weights_PK is None else float(weights_PK[number, sample])
            yield SelectedRow.of(row, sample, weight=weight)


def _rejected(value: object, where: str) -> Rejected | None:
    text = value.get("response") if is_object(value) else None
    if not is_object(value) or not isinstance(text, str):
        return None
    score, sample = value.get("score"), value.get("sample")
    return Rejected(
        text,
        score if is_finite_number(score) else None,
        sample if isinstance(sample, int) else None,
        ids_column(value.get("token_ids"), "rejected.token_ids", where),
    )
