"""Load a scalar reward model: a transformer, and a head that reads the state of the last token.

A Bradley–Terry classifier has one linear layer; a GRM (Generalizable Reward Model) a small MLP on a
language model. A checkpoint that would score at random, because its head is missing, is refused.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.checkpoints.checkpoint import read_config, tensor_shapes
from rewards.checkpoints.families import architecture_of
from rewards.checkpoints.heads import SUMMARY, HeadTensors, find_head
from rewards.checkpoints.loading import (
    check_not_quantised,
    check_vllm_device,
    load_config,
    load_tokenizer,
    make_encoder,
    pad_id,
    resolve_device,
    resolve_dtype,
)
from rewards.checkpoints.settings import ModelSettings
from rewards.encoding.bos import counted_bos, grm_bos
from rewards.encoding.encoder import Encoder
from rewards.encoding.eos import own_eos
from rewards.inference.backbone import Backbone
from rewards.inference.engine import Engine
from rewards.inference.transformers import TransformersEngine
from rewards.inference.vllm import VLLMPoolingEngine
from rewards.models.cross_encoder import is_encoder, load_cross_encoder, text_encoder
from rewards.models.head import LinearHead, read_head
from rewards.models.reward import ModelReward
from rewards.models.transformer import check_engine, load_transformer, state_size
from rewards.types import EngineName, Eos, Family, Format
from rollout.text.printable import listed

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

__all__ = ["load_classifier", "scalar_encoder"]

log = logging.getLogger("rewards")


def load_classifier(
    folder: Path, settings: ModelSettings, *, name: str, family: Family = "classifier"
) -> ModelReward:
    """Load model and tokenizer from `folder`; `family` is "classifier" or "grm".

    Raises `InputError` when the head is missing or has more than one output, a tensor is missing,
    the architecture is unknown, or the settings do not fit.
    """
    if family == "grm":
        check_engine(settings, "value", name)
    elif is_encoder(folder):
        return load_cross_encoder(folder, settings, name=name)
    config = load_config(folder)
    if settings.engine != "vllm":
        check_not_quantised(folder, config)
    tensors, head = read_head(folder, state_size(config), SUMMARY if family == "grm" else None)
    encoder = scalar_encoder(folder, settings, name=name, family=family)
    if family == "classifier" and _chosen_engine(settings, name) == "vllm":
        engine: Engine = _vllm_engine(folder, config, settings, encoder.max_length, tensors, head)
    else:
        device = resolve_device(settings.device)
        dtype = resolve_dtype(settings.dtype, config, device)
        config.num_labels = 1  # of the class that an adapter was trained with
        named = [*tensors.names, *tensors.names.values()]
        backbone = Backbone(
            load_transformer(folder, config, dtype, device, heads=named),
            pad_id=pad_id(config, encoder.tokenizer, encoder.vocabulary),
            name=name,
        )
        engine = TransformersEngine(backbone, head, settings.batch_tokens)
    reward = ModelReward(encoder, engine, name=name, kind=family, non_finite=settings.non_finite)
    log.info("loaded reward model: %s", listed(reward.describe()))
    if read_config(folder).get("score_type") == "cost":  # Beaver's
        log.warning("%s is a cost model (score_type): a higher score is worse", name)
    return reward


def scalar_encoder(folder: Path, settings: ModelSettings, *, name: str, family: Family) -> Encoder:
    """Return the encoder of the model in `folder`, without loading its weights.

    Settings that are not set are those that the model was trained with. Raises `InputError` for
    settings that do not fit.
    """
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    if family == "classifier" and is_encoder(folder):
        return text_encoder(config, tokenizer, settings, name)
    said = read_config(folder)
    stem = find_head(folder, said, tensor_shapes(folder)).stem if family != "grm" else SUMMARY
    if family == "grm":
        settings = _as_grm(settings, tokenizer, name)
    elif stem == said.get("value_head_prefix", "value_head"):
        settings = _as_openrlhf(settings, tokenizer, name)
    else:
        settings = _as_published(settings, tokenizer, stem, architecture_of(said), name)
    vocabulary = config.get_text_config().vocab_size
    return make_encoder(tokenizer, config, settings, name=name, vocabulary=vocabulary)


def _as_grm(
    settings: ModelSettings, tokenizer: PreTrainedTokenizerBase, name: str
) -> ModelSettings:
    bos = settings.bos or grm_bos(tokenizer, settings.format, name)
    return replace(settings, bos=bos, eos=settings.eos or own_eos(tokenizer))


def _as_published(
    settings: ModelSettings,
    tokenizer: PreTrainedTokenizerBase,
    stem: str,
    architecture: str,
    name: str,
) -> ModelSettings:
    """Return the settings with the format and EOS that UltraRM, Beaver and Eurus were trained with.

    Their files do not tell these. Settings of other models, and those that are set, are unchanged.
    """
    bare = settings.format is None and not tokenizer.chat_template
    if bare and stem == "regression_head" and architecture == "LlamaRewardModel":
        log.info('%s: format="ultrarm", as on the card of UltraRM', name)
        settings = replace(settings, format="ultrarm")
    elif bare and stem == "score_head":
        log.info('%s: format="beaver", eos="single", as safe-rlhf trains', name)
        ends: Eos = "none" if tokenizer.eos_token_id is None else "single"
        settings = replace(settings, format="beaver", eos=settings.eos or ends)
    elif bare and architecture == "EurusRewardModel":
        log.warning("%s: its card reads the chat template of Mistral-7B-Instruct-v0.2", name)
    if stem == "regression_head":  # UltraRM and Eurus, whose cards add nothing
        settings = replace(settings, eos=settings.eos or own_eos(tokenizer))
    return settings


def _as_openrlhf(
    settings: ModelSettings, tokenizer: PreTrainedTokenizerBase, name: str
) -> ModelSettings:
    """Return the settings with BOS and EOS as OpenRLHF trains.

    Its `RewardDataset` adds no special tokens but one EOS, with or without a template.
    """
    format: Format = settings.format or ("chat" if tokenizer.chat_template else "plain")
    bos = settings.bos or counted_bos(tokenizer, format, special=False)
    eos: Eos = settings.eos or ("none" if tokenizer.eos_token_id is None else "single")
    log.info('%s: bos="%s", eos="%s", as OpenRLHF trains', name, bos, eos)
    return replace(settings, bos=bos, eos=eos)


def _chosen_engine(settings: ModelSettings, name: str) -> EngineName:
    """Return the engine: transformers, unless vLLM is asked for by name.

    On a CPU vLLM scores about 1.8 times as fast but starts 5 s later, which pays from some 900
    conversations on (`experiments/bench/reward_engines.py`: 3 million parameters, 230 tokens, one
    thread), and it takes hold of its process. On a GPU neither has been measured.
    """
    if settings.engine == "auto":
        log.info(
            "%s: engine transformers, because it starts sooner and disturbs nothing in its process "
            '(engine "vllm" may score large batches faster)',
            name,
        )
        return "transformers"
    log.info("%s: engine %s, asked for by name", name, settings.engine)
    return settings.engine


def _vllm_engine(
    folder: Path,
    config: PreTrainedConfig,
    settings: ModelSettings,
    max_length: int | None,
    tensors: HeadTensors,
    head: LinearHead,
) -> VLLMPoolingEngine:
    """Return the vLLM engine, which computes the head itself, from the tensor `score.weight`.

    Raises `InputError` for any other head, which vLLM cannot serve.
    """
    if list(tensors.names) != ["score.weight"] or (head.mean, head.std) != (0.0, 1.0):
        check_engine(settings, f"{tensors.stem} {head.describe()['head']}", str(folder))
    dtype = str(resolve_dtype(settings.dtype, config, check_vllm_device(settings.device)))
    return VLLMPoolingEngine(
        str(folder),
        dtype=dtype,
        max_length=max_length,
        gpu_memory=settings.gpu_memory,
        batch_tokens=settings.batch_tokens,
    )
