"""`load_reward`: load a reward model by path or hub name, with the settings it was trained for."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from rewards.checkpoints.families import FAMILIES, check_family, recognise
from rewards.checkpoints.hub import local_folder
from rewards.checkpoints.published import Published, find_published
from rewards.checkpoints.record import with_record
from rewards.checkpoints.settings import ModelSettings
from rewards.types import Bos, EngineName, Eos, Family, Format, NonFinite, TruncationSide
from rollout.types import InputError

if TYPE_CHECKING:
    from rewards.encoding.encoder import Encoder
    from rewards.models.reward import ModelReward
    from rewards.spec import ModelSpec

__all__ = ["load_encoder", "load_reward"]

# size of a vocabulary that is not checked: every id is below it
_ANY = 1 << 62
_FUNCTION = "function:"

log = logging.getLogger("rewards")


def load_reward(
    path: str | Path,
    *,
    kind: Family | None = None,
    format: Format | None = None,
    bos: Bos | None = None,
    eos: Eos | None = None,
    engine: EngineName | None = None,
    dtype: str | None = None,
    device: str | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    gpu_memory: float | None = None,
    truncation_side: TruncationSide | None = None,
    separator: str = "",
    chat_template_kwargs: dict[str, object] | None = None,
    non_finite: NonFinite = "raise",
) -> ModelReward:
    """Load the reward model in a local folder or on the hub; `function:NAME` is a reward function,
    which scores conversations as a model does and has no settings but `non_finite`.

    The family is found from the files; settings left at None come from what is known of published
    models, then from the files. `kind` is the family of the checkpoint: "classifier", "armorm" or
    "grm". `format` is "chat", "hh_hash", "plain", "ultrarm" or "beaver"; `bos` is the exact number
    of BOS tokens, "single", "double" or "none"; `eos`, "single" or "none", ends each in one EOS;
    `gpu_memory` is the share of a GPU that vLLM may take;
    `max_length` cuts longer conversations on `truncation_side` (default: left); `separator` goes
    between the messages of "hh_hash"; `chat_template_kwargs` are variables of the chat template.

    Raises `InputError` for a missing or unsuitable checkpoint or setting. No remote code is run.
    """
    given = ModelSettings(
        format=format,
        bos=bos,
        eos=eos,
        engine=engine or "auto",
        dtype=dtype,
        device=device,
        max_length=max_length,
        batch_tokens=batch_tokens,
        gpu_memory=gpu_memory,
        truncation_side=truncation_side or "left",
        separator=separator,
        chat_template_kwargs=chat_template_kwargs,
        non_finite=non_finite,
    )
    if isinstance(path, str) and path.startswith(_FUNCTION):
        return _function(path, kind, given)
    family, folder, recorded = _settled(path, kind, truncation_side, separator, given)
    return _load(family, folder, recorded, str(path))


def _function(name: str, kind: Family | None, given: ModelSettings) -> ModelReward:
    from rewards.functions.reward import ConversationFunction

    if kind is not None or given != ModelSettings(non_finite=given.non_finite):
        raise InputError(name, "has no settings of a model", "leave them out")
    made = ConversationFunction(name.removeprefix(_FUNCTION), non_finite=given.non_finite)
    # typed as a model: callers that name a model get one, with its encoder and engine
    return cast("ModelReward", made)


def load_encoder(spec: ModelSpec) -> Encoder:
    """Return the encoder of a reward model, without its weights. Raises as `load_reward` does.

    It does not check ids against the vocabulary.
    """
    from rewards.checkpoints.loading import load_config, load_tokenizer, make_encoder

    side, separator = spec.truncation_side, spec.separator or ""
    given = ModelSettings(
        format=spec.format, bos=spec.bos, eos=spec.eos, max_length=spec.max_length,
        truncation_side=side or "left", separator=separator,
        chat_template_kwargs=spec.chat_template_kwargs,
    )  # fmt: skip
    family, folder, settings = _settled(spec.model, spec.family, side, separator, given)
    if family == "armorm":
        settings = replace(settings, format="chat")
        made = make_encoder(
            load_tokenizer(folder), load_config(folder), settings, name=spec.model, vocabulary=_ANY
        )
    else:
        from rewards.models.classifier import scalar_encoder

        made = scalar_encoder(folder, settings, name=spec.model, family=family)
    return replace(made, vocabulary=_ANY)


def _settled(
    path: str | Path,
    kind: Family | None,
    side: TruncationSide | None,
    separator: str,
    settings: ModelSettings,
) -> tuple[Family, Path, ModelSettings]:
    """Return family, folder and settings of a reward model. Raises `InputError` for a judge.

    Settings that are not set come from what is known of the published model, then from the files.
    """
    if kind is not None:
        check_family(kind)
    known = known_settings(path, settings)
    _refuse_judge(kind or known[0], str(path))
    folder = local_folder(path)
    found = kind or recognise(folder)
    _refuse_judge(found, str(path))
    # our own training records settings for which Hugging Face's files have no place
    return found, folder, with_record(folder, known[1], side=side, separator=separator)


def known_settings(
    path: str | Path, settings: ModelSettings
) -> tuple[Family | None, ModelSettings]:
    """Return the family of a published model, and `settings` completed by its published ones.

    Of other models return None, and `settings` as they are.
    """
    found = find_published(path)
    if found is None:
        return None, settings
    name, known = found
    log.info("%s: using the published settings of %s: %s", path, name, known)
    return known.family, replace(
        settings,
        format=settings.format or known.format,
        bos=settings.bos or known.bos,
        eos=settings.eos or known.eos,
        dtype=settings.dtype or _published_dtype(known, settings.device),
        max_length=settings.max_length or known.max_length,
    )


def _load(family: Family, folder: Path, settings: ModelSettings, name: str) -> ModelReward:
    # each loads torch and transformers
    if family == "armorm":
        from rewards.models.armorm import load_armorm

        return load_armorm(folder, settings, name=name)
    from rewards.models.classifier import load_classifier

    return load_classifier(folder, settings, name=name, family=family)


def _refuse_judge(family: Family | None, name: str) -> None:
    if family == "pairwise":
        raise InputError(
            name,
            f"is {FAMILIES['pairwise']}: it compares and does not score",
            "use load_judge, or reward.kind: pairwise",
        )


def _published_dtype(known: Published, device: str | None) -> str | None:
    """Return the published dtype where the model runs on a GPU, for which it is meant; else None.

    On a CPU the loader's default, float32, is exact.
    """
    if known.dtype is None or device == "cpu":
        return None
    import torch

    on_gpu = device not in (None, "auto") or torch.cuda.is_available()
    return known.dtype if on_gpu else None
