"""The config of a run: its sections with their defaults, and checks for contradictions.

Unknown keys are errors. Nothing in `rewards` or `rollout` knows these classes: workers get plain
arguments, which `raft.assemble` and `raft.resources` take from them.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from raft.config.monitor import LogConfig, MonitorConfig
from raft.config.policy import PolicyConfig
from raft.config.sampling import SamplingConfig
from raft.config.select import ControlConfig, SelectConfig
from raft.config.train import CheckpointConfig, TrainConfig
from raft.config.updates import of_kind, own_strategy
from raft.runs.metrics import CONTROL
from raft.selection.rules import check_strategy
from rewards.spec import RewardSpec
from rollout.data.jsonl import is_object
from rollout.engines.transfer import WITHOUT_DISK
from rollout.errors import InputError

# responses drawn for training per held-out one; a held-out response costs nearly two draws, since
# it is also compared with the starting policy's
_TRAINED_FOR_ONE = 7


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class PromptsConfig(_Section):
    path: str = Field(description="JSONL, Parquet or text file, or a `datasets` name")
    per_iteration: int = Field(default=256, ge=1, description="prompts of an iteration")
    format: Literal["auto", "text", "messages", "hh"] = Field(
        default="auto", description="auto: by the first row"
    )
    column: str | None = Field(
        default=None, description="column of the prompt, dotted for one inside another"
    )
    columns: dict[str, str] = Field(
        default_factory=dict, description="columns with other names: {system: persona}"
    )
    split: str = Field(default="train", description="split of a dataset")
    separator: str | None = Field(default=None, description="splits a text file into documents")
    first_words: int | None = Field(
        default=None, ge=1, description="take a text's first words as the prompt"
    )
    limit: int | None = Field(default=None, ge=1, description="take the first prompts only")
    max_tokens: int | None = Field(default=None, ge=1, description="longer prompts are skipped")
    on_bad_row: Literal["stop", "skip"] = Field(
        default="stop", description="skip and count rows that are no prompts"
    )


class EvalConfig(_Section):
    prompts: Annotated[int, Field(ge=1)] | str = Field(
        default=128, description="number to hold out, or a file of others"
    )
    k: int = Field(default=4, ge=1, description="responses per held-out prompt")
    temperature: float | None = Field(
        default=None, ge=0, le=2, description="default: sampling.temperature"
    )
    every: int | None = Field(
        default=None,
        ge=1,
        description="iterations between evaluations; default: so many that one held-out response "
        f"is drawn for {_TRAINED_FOR_ONE} others, which leaves evaluation a seventh of the time",
    )


class ClusterConfig(_Section):
    address: str = Field(
        default="local",
        description="inline: this process; local: Ray on this machine; auto or host:port: join it",
    )
    rollout_workers: int = Field(default=1, ge=1, description="engines that draw")
    reward_workers: int = Field(default=1, ge=1, description="copies of the reward")
    trainer_workers: int = Field(default=1, ge=1, description="processes that train together")
    gpus: int | None = Field(default=None, ge=0, description="default: all of the cluster")
    placement: Literal["auto", "colocated", "separate"] = Field(
        default="auto", description="whether kinds of workers share GPUs"
    )
    max_respawns: int = Field(default=3, ge=0, description="dead workers to replace per iteration")
    stall_timeout: float | None = Field(
        default=None,
        gt=0,
        description="seconds without a result after which a worker counts as dead (its start and "
        "an update are such waits too); default: never",
    )

    @field_validator("address")
    @classmethod
    def _is_an_address(cls, given: str) -> str:
        host, colon, port = given.rpartition(":")
        valid = host and colon and port.isdecimal() and 0 < int(port) < 65536 and "/" not in host
        if given not in ("inline", "local", "auto") and not valid:
            raise ValueError("use inline, local, auto or host:port")
        return given

    @model_validator(mode="after")
    def _one_process_trains_alone(self) -> ClusterConfig:
        if self.address == "inline" and self.trainer_workers > 1:
            raise ValueError(
                f"trainer_workers: {self.trainer_workers} would wait for each other in the one "
                "process of address: inline; use 1, or address: local"
            )
        return self


class RunConfig(_Section):
    """One RAFT run. `describe_keys()` lists every key with its default."""

    run_dir: str = Field(description="folder of the run; resumed where it exists")
    seed: int = Field(default=0, ge=0, description="of everything that is drawn")
    iterations: int = Field(default=5, ge=0, description="rounds of drawing and training")
    policy: PolicyConfig
    prompts: PromptsConfig
    sampling: SamplingConfig = SamplingConfig()
    reward: RewardSpec
    gold: RewardSpec | None = None
    select: SelectConfig = SelectConfig()
    train: TrainConfig = TrainConfig()
    eval: EvalConfig = EvalConfig()
    monitor: MonitorConfig = MonitorConfig()
    cluster: ClusterConfig = ClusterConfig()
    log: LogConfig = LogConfig()
    overlap: int = Field(
        default=0,
        ge=0,
        le=1,
        description="1: asynchronous, one step off-policy: the next iteration's responses are "
        "drawn while this one trains, by the policy before it",
    )
    checkpoint: CheckpointConfig = CheckpointConfig()
    control: Annotated[ControlConfig | None, BeforeValidator(of_kind)] = Field(
        default=None,
        description="random: after the run, train a second policy by scores that say nothing",
    )
    keep_checkpoints: int = Field(
        default=2, ge=1, description="newest policies on disk, besides the best"
    )

    def rewards(self) -> dict[str, RewardSpec]:
        """Return the rewards of the run by their keys: "reward", and "gold" where there is one."""
        return {"reward": self.reward} | ({} if self.gold is None else {"gold": self.gold})

    @property
    def eval_sampling(self) -> SamplingConfig:
        """Return how held-out responses are drawn: `eval.k` at once, at `eval.temperature`.

        All other settings are those of training.
        """
        own = self.eval.temperature
        temperature = self.sampling.temperature if own is None else own
        return replace(self.sampling.fixed, k=self.eval.k, temperature=temperature)

    def evaluation_due(self, iteration: int, held_out: int) -> bool:
        """Return whether the policy of `iteration` is evaluated, on `held_out` prompts.

        The starting policy (iteration 0), every `eval.every`-th and the last one are.
        """
        drawn = min(self.prompts.per_iteration * self.sampling.whole, 2**62)
        every = self.eval.every or math.ceil(_TRAINED_FOR_ONE * held_out * self.eval.k / drawn)
        return iteration % every == 0 or iteration == self.iterations

    def drawn_by(self, iteration: int) -> int:
        """Return the version of the policy that draws the responses of an iteration."""
        return max(iteration - 1 - self.overlap, 0)

    def trains_in(self, iteration: int) -> bool:
        """Return whether the policy is trained in an iteration: from 1 on in each.

        In a control run only every `control.every`-th iteration trains.
        """
        every = self.control.every if self.control and self.select.shuffle else 1
        return iteration > 0 and iteration % every == 0

    def of_control(self, iterations: int) -> RunConfig:
        """Return the config of the control of this run: the same run by shuffled scores.

        It makes the same number of `iterations` in a folder below the run's own. Drawing in waves,
        rejecting early, overlap and the guards that stop a run are off.
        """
        changed = {
            "run_dir": str(Path(self.run_dir) / CONTROL),
            "iterations": iterations,
            "overlap": 0,
            "sampling": self.sampling.fixed,
            "select": self.select.model_copy(update={"shuffle": True}),
            "monitor": self.monitor.model_copy(update={"stop_on": [], "idle_patience": None}),
        }
        return self.model_copy(update=changed)

    def checkpoint_due(self, iteration: int) -> bool:
        return iteration % self.checkpoint.every == 0 or iteration == self.iterations

    @model_validator(mode="before")
    @classmethod
    def _update_says_what_is_selected(cls, data: object) -> object:
        """Fill in the update's default selection rule where the config names none.

        So config.yaml, which is written from this object, names the rule that the run used.
        """
        train, select = (data.get(key) if is_object(data) else None for key in ("train", "select"))
        own = own_strategy(train.get("update")) if is_object(train) else None
        if own is None or not is_object(data) or not isinstance(select, dict | None):
            return data
        return {**data, "select": {"strategy": own, **(select or {})}}

    @model_validator(mode="after")
    def _selector_and_update_fit(self) -> RunConfig:
        self.sampling.check(self.reward)
        sampling = self.sampling
        try:
            check_strategy(self.select.strategy, sampling.fewest, **self.select.arguments())
        except InputError as error:
            said = [str(part).replace("sampling.k", sampling.fewest_key) for part in error.args]
            raise InputError(*said) from None
        self.train.update.check_strategy(self.select.strategy)
        if self.select.strategy == "all" and sampling.fewest < 2:
            raise ValueError(
                f"{sampling.fewest_key}: {sampling.fewest} is too small for train.update "
                f"{self.train.update.kind}; set it to 2 or more"
            )
        if self.overlap and self.cluster.placement == "colocated":
            problem = (
                "draws while a trainer works, and in cluster.placement colocated one of them does"
            )
            raise InputError("overlap", problem, "set it to 0")
        # whether there is a GPU is known when the run starts; here it is taken to be there
        self.train.check(on_gpu=True, world_size=self.cluster.trainer_workers)
        return self

    @model_validator(mode="after")
    def _adapters_are_trained(self) -> RunConfig:
        if self.policy.lora_sync == "adapter" and self.train.lora is None:
            raise ValueError("policy.lora_sync: adapter needs train.lora; set it, or use auto")
        return self

    @model_validator(mode="after")
    def _weights_can_be_sent(self) -> RunConfig:
        """Refuse a `policy.sync` without a disk that the workers cannot do, with ValueError."""
        sync = self.policy.sync
        if sync not in WITHOUT_DISK:
            return self
        if self.train.lora is not None:
            raise ValueError(
                f"policy.sync: {sync} is of all weights, and of train.lora an adapter is enough; "
                "use disk"
            )
        if self.cluster.address == "inline":
            raise ValueError(
                f"policy.sync: {sync} is between processes, and cluster.address: inline has one; "
                "use disk"
            )
        alone = {
            "cluster.placement: separate": self.cluster.placement == "separate",
            "overlap: 1": self.overlap > 0,
            "policy.tensor_parallel": self.policy.tensor_parallel > 1,
        }
        for key, gives_own_gpus in alone.items():
            if sync == "ipc" and gives_own_gpus:
                raise ValueError(
                    f"policy.sync: ipc is on GPUs that engines and trainers share, and with {key} "
                    "they share none; use nccl"
                )
        return self

    @model_validator(mode="after")
    def _judges_have_something_to_compare(self) -> RunConfig:
        judged = any(part.kind == "pairwise" for part in self.reward.parts())
        if judged and self.sampling.k < 2:
            raise ValueError(
                "reward: kind pairwise compares responses; sampling.k must be 2 or more"
            )
        return self

    @model_validator(mode="after")
    def _rewards_suit_a_run(self) -> RunConfig:
        why = {
            "device": "a run places its workers itself; remove it",
            "token": "it would stand in config.yaml; use token_env",
        }
        for key, reward in self.rewards().items():
            for part in reward.parts():
                for name, reason in why.items():
                    if getattr(part, name, None) is not None:
                        raise ValueError(f"{key}.{name}: {reason}")
        return self

    @model_validator(mode="after")
    def _engines_of_rewards_fit_their_gpu(self) -> RunConfig:
        parts = [part for reward in self.rewards().values() for part in reward.parts()]
        on_vllm = [part for part in parts if getattr(part, "engine", None) == "vllm"]
        total = sum(getattr(part, "gpu_memory", None) or 0.0 for part in on_vllm)
        if total > 1:
            raise ValueError(
                f"reward.gpu_memory: the rewards of a worker take {total:g} of one GPU together; "
                "lower it"
            )
        if on_vllm and self.cluster.placement == "colocated":
            raise ValueError(
                "reward.engine: vllm keeps its memory, so it takes no turns on a GPU; use engine: "
                "transformers, or cluster.placement: separate"
            )
        return self

    @model_validator(mode="after")
    def _policies_are_measured_on_one_gpu(self) -> RunConfig:
        for key in ("kl_budget", "reference_text"):
            if getattr(self.monitor, key) is not None and self.policy.tensor_parallel > 1:
                raise ValueError(
                    f"monitor.{key}: policies are measured on one GPU, and policy.tensor_parallel "
                    f"spans {self.policy.tensor_parallel}; leave it out"
                )
        return self

    @model_validator(mode="after")
    def _greedy_eval_is_single_and_has_no_kl(self) -> RunConfig:
        own = self.eval.temperature
        if (self.sampling.temperature if own is None else own) > 0:
            return self
        if self.eval.k > 1:
            raise ValueError(f"eval.k: {self.eval.k} at temperature 0 are all the same; set 1")
        if self.monitor.kl_budget is not None:
            raise ValueError(
                "monitor.kl_budget: KL is measured on samples, and temperature 0 draws none; set "
                "eval.temperature"
            )
        return self
