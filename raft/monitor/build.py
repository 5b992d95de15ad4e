"""From a run's config to its monitor."""

from __future__ import annotations

from raft.assemble import kl_temperature, local_path
from raft.config_schema import RunConfig
from raft.monitor.guards import Rules
from raft.monitor.log_probs import Row
from raft.monitor.monitor import Monitor
from raft.monitor.policies import PolicyMeasures
from raft.prompt_sets import load_tokenizer
from raft.run_folder import RunFolder
from rollout.data.prompts import read_prompts
from rollout.engines.base import context_length
from rollout.text.templates import encode_prompts
from rollout.types import InputError

__all__ = ["build_monitor", "load_reference"]

_DOCUMENTS = 64
_TOKENS = 1024  # of each document, at most
_NO_LIMIT = 2**31


def build_monitor(config: RunConfig, folder: RunFolder, reference: tuple[Row, ...]) -> Monitor:
    policies = PolicyMeasures(local_path(config.policy.model), kl_temperature(config), reference)
    return Monitor(folder, Rules(**config.monitor.rules()), policies)


def load_reference(config: RunConfig) -> tuple[Row, ...]:
    """The beginnings of the first documents of `monitor.reference_text`, encoded; none without it.

    Raises:
        InputError: no such file, or nothing in it that has a second token to predict.
    """
    path = config.monitor.reference_text
    if path is None:
        return ()
    model = local_path(config.policy.model)
    longest = min(_TOKENS, context_length(model))
    try:
        documents = encode_prompts(
            read_prompts(path, separator=config.prompts.separator, limit=_DOCUMENTS),
            load_tokenizer(model),
            template="plain",
            max_model_len=_NO_LIMIT,
            max_new_tokens=0,
        )
    except InputError as error:
        raise InputError(f"monitor.reference_text: {error}") from error
    rows = tuple(Row(one.token_ids[:longest]) for one in documents if len(one.token_ids) > 1)
    if not rows:
        raise InputError(
            f"monitor.reference_text: {path} has no document of two tokens; give more text"
        )
    return rows
