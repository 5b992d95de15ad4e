"""The settings of a reward, one class per kind, from a config file to the worker that builds it.

`RewardSpec` is read from YAML or Python keywords (`read_reward`), travels between processes, and is
built by `rewards.build`. A setting of None, "", "auto" or an empty list or mapping is not set.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, model_serializer, model_validator

from rewards.checkpoints.hub import check_model, local_path
from rewards.tournament.types import Tournament
from rewards.types import Bos, EngineName, Eos, Format, NonFinite, TruncationSide
from rollout.storage.settings import without_secrets

__all__ = [
    "KINDS",
    "CombineSpec",
    "FunctionSpec",
    "JudgeSpec",
    "MemberSpec",
    "ModelSpec",
    "PairwiseSpec",
    "RemoteSpec",
    "RewardSpec",
    "known_settings",
]

_NON_FINITE: NonFinite = Field(default="raise", description="what becomes of NaN and infinity")
# settings that name files of scores
_SCORE_FILES = ("from", "reference", "verbosity_reference")


class _Spec(BaseModel):
    """The settings and methods that all kinds share."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str
    main: ClassVar[str]  # the setting that the kind cannot do without

    def given(self) -> dict[str, object]:
        """Return the settings that were given, as JSON, without secrets.

        Files record these to tell what they were made with, so they must not change by version.
        """
        fields = type(self).model_fields
        said: dict[str, object] = {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in self
            if not fields[name].exclude and not _is_unsaid(name, value)
        }
        return without_secrets(said)

    def parts(self) -> list[RewardSpec]:
        """Return this reward and, of a combination, all rewards that it is made of."""
        return [self]  # type: ignore[list-item]

    def check_models(self, key: str, *, hub: bool = True) -> None:
        """Raise `InputError` for a model that does not exist; `key` is for messages. Without `hub`,
        names are not looked up on the hub."""
        for part in self.parts():
            if isinstance(part, ModelSpec | PairwiseSpec):
                check_model(part.model, key, adapters=True, hub=hub)

    def absolute(self) -> Self:
        """Return this with absolute paths, since workers have a working directory of their own."""
        return self

    def lenient(self) -> Self:
        """Return this with `non_finite` "missing"; a kind without that setting is unchanged."""
        if "non_finite" not in type(self).model_fields:
            return self
        return self.model_copy(update={"non_finite": "missing"})

    @property
    def label(self) -> str:
        """Name of this reward in messages and reports."""
        return str(getattr(self, "function", None) or getattr(self, "model", None) or self.kind)

    @property
    def needs_gpu(self) -> bool:
        """Whether any part is a model that this machine runs."""
        return any(part.kind in ("model", "pairwise") for part in self.parts())

    @model_validator(mode="before")
    @classmethod
    def _drop_unsaid(cls, given: object) -> object:
        if not isinstance(given, Mapping):
            return given
        said = {
            name: os.fspath(value) if isinstance(value, os.PathLike) else value
            for name, value in given.items()
            if not _is_unsaid(name, value)
        }
        kind = cls.model_fields["kind"].default
        if cls.main not in said:
            raise ValueError(f'kind "{kind}" needs {cls.main}')
        for name in said:
            if name not in cls.model_fields and name in known_settings():
                raise ValueError(f'kind "{kind}" has no use for {name}; remove it')
        return said


class FunctionSpec(_Spec):
    main = "function"

    kind: Literal["function"] = "function"
    function: str | Callable[..., object] = Field(
        description="built-in name, module:attr or file.py:attr"
    )
    arguments: dict[str, object] = Field(default={}, description="fixed arguments of the function")
    name: str | None = Field(default=None, description="for messages; default: the function's")
    non_finite: NonFinite = _NON_FINITE

    def absolute(self) -> Self:
        file, colon, name = str(self.function).partition(".py:")
        if not colon:
            return self
        return self.model_copy(update={"function": f"{os.path.realpath(file)}.py:{name}"})


class _LoadedSpec(_Spec):
    """A model that is loaded here."""

    main = "model"

    model: str = Field(description="folder or hub name")
    engine: EngineName = Field(default="auto", description="what runs the model")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto", description="auto: as published, on a CPU float32"
    )
    device: str | None = Field(default=None, description="not in a run, which places its workers")
    max_length: int | None = Field(default=None, ge=1, description="tokens; default: the model's")
    batch_tokens: int | None = Field(default=None, ge=1, description="default: 2048, GPU 32768")
    gpu_memory: float | None = Field(
        default=None, gt=0, le=1, description="share for vLLM; default: 0.8 for all its models"
    )
    non_finite: NonFinite = _NON_FINITE

    def absolute(self) -> Self:
        return self.model_copy(update={"model": local_path(self.model)})


class _ReadSpec(_Spec):
    """How conversations become text or token ids."""

    format: Format | None = Field(default=None, description="default: the model's own")
    bos: Bos | None = Field(default=None, description="number of BOS tokens; default: the model's")
    eos: Eos | None = Field(default=None, description="at a row's end; default: the model's")
    separator: str | None = Field(default=None, description="between messages, format hh_hash")
    max_length: int | None = Field(default=None, ge=1, description="tokens; default: the model's")
    truncation_side: TruncationSide | None = Field(default=None, description="default: left")


class ModelSpec(_LoadedSpec, _ReadSpec):
    """A reward model; what is not set comes from what is known of it, then from its files."""

    kind: Literal["model"] = "model"
    chat_template_kwargs: dict[str, object] | None = Field(
        default=None, description="variables of the chat template, such as enable_thinking: false"
    )
    family: Literal["classifier", "armorm", "grm"] | None = Field(
        default=None, description="default: found from the files"
    )


class PairwiseSpec(_LoadedSpec):
    """A pairwise judge, and the tournament that makes scores of its verdicts."""

    kind: Literal["pairwise"] = "pairwise"
    tournament: str | None = Field(
        default=None, description="knockout (default), round_robin, swiss, …"
    )
    score: str | None = Field(default=None, description="of a round robin; default: copeland")
    rounds: int | None = Field(default=None, ge=1, description="number of Swiss rounds")
    budget: int | None = Field(default=None, ge=1, description="most comparisons per prompt")
    tie: float | None = Field(
        default=None, ge=0, lt=0.5, description="P within this of 1/2 is a tie; default: 0"
    )
    seed: int | None = Field(default=None, description="of the draws; default: 0")
    temperature: float | None = Field(
        default=None, gt=0, description="divides the log-odds of the verdicts; default: 1"
    )

    def rules(self) -> Tournament:
        """Return the settings of the tournament alone."""
        return Tournament(
            method=self.tournament,
            score=self.score,
            rounds=self.rounds,
            budget=self.budget,
            tie=self.tie or 0.0,
            seed=self.seed or 0,
        )


class CombineSpec(_Spec):
    """A weighted sum, or another reduction, of several rewards."""

    main = "members"

    kind: Literal["combine"] = "combine"
    members: tuple[MemberSpec, ...] = Field(
        description="rewards, each with weight, normalise and name beside its own settings"
    )
    reduce: Literal["sum", "mean", "min", "mean_minus_std"] | None = Field(
        default=None, description="default: sum"
    )
    std_weight: float | None = Field(default=None, description="factor of the std; default: 1")
    length_penalty: dict[str, object] | None = Field(
        default=None, description="{weight, above, per: word|char|token}"
    )
    debias: dict[str, object] | None = Field(
        default=None, description="{reference: scored file} or {penalty, mean, std, scale}"
    )

    def given(self) -> dict[str, object]:
        return {**super().given(), "members": [member.given() for member in self.members]}

    def parts(self) -> list[RewardSpec]:
        return [self, *(part for member in self.members for part in member.reward.parts())]

    def absolute(self) -> Self:
        members = tuple(member.absolute() for member in self.members)
        return self.model_copy(update={"members": members, "debias": _absolute_files(self.debias)})


class RemoteSpec(_ReadSpec):
    """A reward server; it reads conversations itself where it speaks our protocol."""

    main = "url"

    kind: Literal["remote"] = "remote"
    url: str = Field(description="of the server, http:// or https://")
    protocol: Literal["raft", "openrlhf", "vllm-classify", "vllm-pooling"] | None = Field(
        default=None, description="default: raft"
    )
    model: str | None = Field(default=None, description="name that the server must answer as")
    token: str | None = Field(
        default=None, exclude=True, repr=False, description="from Python only; see token_env"
    )
    token_env: str | None = Field(
        default=None, description="environment variable that holds the bearer token"
    )
    timeout: float | None = Field(default=None, gt=0, description="s per request; default: 60")
    concurrency: int | None = Field(default=None, ge=1, description="requests at once; default: 4")
    batch_size: int | None = Field(default=None, ge=1, description="texts per request; default: 32")
    retries: int | None = Field(default=None, ge=0, description="of a request; default: 4")
    backoff: float | None = Field(default=None, gt=0, description="s before a retry; default: 0.5")
    tokenizer: str | None = Field(default=None, description="for protocols that send text")
    columns: tuple[str, ...] | None = Field(
        default=None, description="raft: prompt columns to send; default: all"
    )
    label_column: str | None = Field(
        default=None, description="openrlhf: prompt column to send as labels"
    )
    assume_raw: bool = Field(
        default=False, description="vllm: do not check that the numbers are logits"
    )
    non_finite: NonFinite = _NON_FINITE

    def absolute(self) -> Self:
        if self.tokenizer is None:
            return self
        return self.model_copy(update={"tokenizer": local_path(self.tokenizer)})


# specs of judges, which compare; their settings of a tournament have no use there
JudgeSpec: TypeAlias = PairwiseSpec | RemoteSpec
RewardSpec: TypeAlias = Annotated[
    FunctionSpec | ModelSpec | PairwiseSpec | CombineSpec | RemoteSpec,
    Field(discriminator="kind"),
]
KINDS: dict[str, type[_Spec]] = {
    "function": FunctionSpec,
    "model": ModelSpec,
    "pairwise": PairwiseSpec,
    "combine": CombineSpec,
    "remote": RemoteSpec,
}


class MemberSpec(BaseModel):
    """One reward of a combination. In files its settings stand beside those of the reward."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: RewardSpec
    weight: float | None = Field(default=None, description="default: 1")
    normalise: str | dict[str, object] | None = Field(
        default=None,
        description="none, group, rank, sigmoid, {mean, std}, {from: scored file, column: NAME}",
    )
    name: str | None = None

    def given(self) -> dict[str, object]:
        given = {name: value for name, value in self._own().items() if not _is_unsaid(name, value)}
        return {**self.reward.given(), **given}

    def absolute(self) -> MemberSpec:
        files = {"normalise": _absolute_files(self.normalise)}
        return self.model_copy(update={"reward": self.reward.absolute(), **files})

    @model_validator(mode="before")
    @classmethod
    def _part(cls, given: object) -> object:
        if not isinstance(given, Mapping) or isinstance(given.get("reward"), BaseModel):
            return given
        own = {name: given[name] for name in ("weight", "normalise", "name") if name in given}
        return {"reward": {name: given[name] for name in given if name not in own}, **own}

    @model_serializer
    def _join(self) -> dict[str, object]:
        return {**self.reward.model_dump(mode="json"), **self._own()}

    def _own(self) -> dict[str, object]:
        return {"weight": self.weight, "normalise": self.normalise, "name": self.name}


CombineSpec.model_rebuild()
MemberSpec.model_rebuild()


def known_settings() -> set[str]:
    """Return the names of the settings of all kinds, and of members."""
    of_members = MemberSpec.model_fields.keys() - {"reward"}
    return {name for kind in KINDS.values() for name in kind.model_fields} | of_members


def _is_unsaid(name: str, value: object) -> bool:
    if name == "non_finite" and value == "raise":
        return True
    # False is not in the tuple: it equals 0, which is a setting
    return value is False or value in (None, "", "auto", [], (), {})


def _absolute_files(settings: Any) -> Any:
    """Return settings with the paths of their score files made absolute; no mapping, unchanged."""
    if not isinstance(settings, dict):
        return settings
    return {
        name: os.path.realpath(value) if name in _SCORE_FILES else value
        for name, value in settings.items()
    }
