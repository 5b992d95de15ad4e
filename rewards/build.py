"""`build_reward` and `build_judge`: build the object that scores or compares from its spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from rewards.types import Reward
from rollout.errors import InputError

if TYPE_CHECKING:  # the specs need pydantic, and the judge numpy
    from rewards.judges.judge import Judge
    from rewards.spec import JudgeSpec, RewardSpec

__all__ = ["Place", "as_judge", "build_judge", "build_reward", "here"]

_Built = TypeVar("_Built")

_OF_TOURNAMENT = ("tournament", "score", "rounds", "budget", "tie", "seed")
_OF_REMOTE_JUDGE = {
    "kind", "url", "model", "token_env", "timeout", "concurrency", "batch_size", "retries",
    "backoff", "non_finite",
}  # fmt: skip


class Place(Protocol):
    """Where a reward or a judge runs: `here`, or in workers on several GPUs."""

    def __call__(self, build: Callable[[], _Built]) -> _Built:
        """Return what `build` makes, or an object used like it, with one made in each worker."""
        ...


def here(build: Callable[[], _Built]) -> _Built:
    """Build in this process, and return what is built."""
    return build()


def build_reward(kind: RewardSpec | str, **settings: Any) -> Reward:
    """Build a reward from a spec, or from the name of a kind and its settings.

    - "function": `function`, `arguments`, `name` (see `FunctionReward`)
    - "model": `model` and the settings of `load_reward` (its `kind` is `family` here)
    - "pairwise": `model`, the settings of `load_judge` and those of a tournament (`JudgeReward`)
    - "combine": `members`, each the settings of a reward with `weight`, `normalise` and `name`
    - "remote": `url` and the settings of `RemoteReward`

    Settings that are None or empty count as not given. Raises `InputError` when the kind is
    unknown, its main setting is missing, or one that it does not know is given.
    """
    from rewards import spec as specs

    match _spec("reward", kind, settings):
        case specs.FunctionSpec() as spec:
            from rewards.functions.reward import FunctionReward

            return FunctionReward(**_settings(spec))
        case specs.ModelSpec() as spec:
            from rewards.models.load import load_reward

            return load_reward(spec.model, kind=spec.family, **_settings(spec, "model", "family"))
        case specs.PairwiseSpec() as spec:
            from rewards.judges.reward import JudgeReward, check_tournament

            check_tournament(rules := spec.rules())  # before a model is loaded
            return JudgeReward.of(build_judge(as_judge(spec)), rules)
        case specs.CombineSpec() as spec:
            from rewards.combine.build import build_combined

            return build_combined(spec, build_reward)
        case specs.RemoteSpec() as spec:
            from rewards.remote import RemoteReward

            return RemoteReward(**_settings(spec))


def build_judge(kind: JudgeSpec | str, **settings: Any) -> Judge:
    """Build what compares, from a spec or from "pairwise" or "remote" and its settings.

    Those of "pairwise" are `model` and the settings of `load_judge`, those of "remote" `url` and
    the settings of `RemoteJudge`. Raises as `build_reward` does.
    """
    from rewards import spec as specs

    judge = as_judge(_spec("judge", kind, settings))
    if isinstance(judge, specs.RemoteSpec):
        from rewards.remote import RemoteJudge

        return RemoteJudge(**_settings(judge))
    from rewards.judges.load import load_judge

    return load_judge(judge.model, kind="pairwise", **_settings(judge, "model"))


def as_judge(spec: RewardSpec) -> JudgeSpec:
    """Return the spec as that of a judge alone, without the settings of a tournament.

    Raises:
        InputError: it does not compare responses, or has settings that only scores have a use for.
    """
    from rewards.spec import PairwiseSpec, RemoteSpec

    if isinstance(spec, PairwiseSpec):
        return spec.model_copy(update=dict.fromkeys(_OF_TOURNAMENT))
    if not isinstance(spec, RemoteSpec):
        raise InputError(f"judge kind {spec.kind!r}", "is unknown", "use one of pairwise, remote")
    for name in spec.given().keys() - _OF_REMOTE_JUDGE:
        raise InputError('judge kind "remote"', f"has no use for {name}", "remove it")
    return spec


def _spec(what: str, kind: RewardSpec | str, settings: dict[str, Any]) -> RewardSpec:
    from rewards.spec_reader import read_reward

    if isinstance(kind, str):
        return read_reward({"kind": kind, **settings}, what)
    if settings:
        raise InputError(what, f"has a spec and {', '.join(settings)} beside it", "use one of them")
    return kind


def _settings(spec: RewardSpec, *but: str) -> dict[str, Any]:
    """Return the settings that were given, as keywords for building the reward, without `but`."""
    names = [*spec.given(), *(["token"] if getattr(spec, "token", None) else [])]
    return {name: getattr(spec, name) for name in names if name not in ("kind", *but)}
