"""Load ArmoRM: a Llama 3 with rewards for 19 attributes and a gate.

Its tokenizer is wrapped so that conversations end with the token that closes a response: Llama 3's
first template puts the header of a next response behind every conversation, where rewards would be
read and the gate would see the end of the response.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from rewards.checkpoints.checkpoint import check_names, read_config, read_tensors, tensor_shapes
from rewards.checkpoints.heads import bare_names
from rewards.checkpoints.loading import (
    load_config,
    load_tokenizer,
    make_encoder,
    pad_id,
    resolve_device,
)
from rewards.checkpoints.settings import ModelSettings
from rewards.encoding.formats import render
from rewards.inference.backbone import Backbone
from rewards.inference.transformers import TransformersEngine
from rewards.models.armorm_head import EOT, HEADER, Gate, GatingHead, GatingWeights, gate_of
from rewards.models.reward import ModelReward
from rewards.models.transformer import check_engine, dtype_as_stored, load_transformer, state_size
from rewards.types import RewardError
from rollout.data.jsonl import is_list
from rollout.text.printable import listed
from rollout.types import InputError, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "ATTRIBUTES",
    "HEADS",
    "REGRESSION",
    "TRANSFORM",
    "gated_tokenizer",
    "load_armorm",
]

log = logging.getLogger("rewards")

_PROBE = [Message(role="user", content="a"), Message(role="assistant", content="b")]


def gated_tokenizer(
    tokenizer: PreTrainedTokenizerBase, gate: Gate, format: str | None, name: str
) -> PreTrainedTokenizerBase:
    """Return `tokenizer`, wrapped to remove the assistant's header where its template always adds
    one behind a conversation.

    Raises `InputError` for another `format` than "chat", and for a template in whose conversations
    `gate` is not found or that does not render responses as Llama 3's does.
    """
    if format not in (None, "chat"):
        raise InputError(name, f'ArmoRM needs format="chat" to find its gate, not {format!r}')
    if not tokenizer.chat_template:
        raise InputError(name, "its tokenizer has no chat template", "copy Llama 3's to it")
    text = render(_PROBE, "chat", tokenizer)
    if text.endswith(EOT + HEADER):
        log.warning("%s: its chat template always adds an assistant header: left out", name)
        tokenizer = cast("PreTrainedTokenizerBase", _WithoutHeader(tokenizer))
        text = text.removesuffix(HEADER)
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    try:
        gate.find(ids, "a conversation")
    except RewardError as error:
        raise InputError(name, f"its chat template does not suit ArmoRM: {error}") from error
    if not text.endswith(f"{EOT}{HEADER}{_PROBE[-1]['content']}{EOT}"):
        raise InputError(name, "its chat template does not render responses as Llama 3's does")
    return tokenizer


class _WithoutHeader:
    """A tokenizer that removes the assistant's header which its template always adds at the end."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer: Any = tokenizer

    def __getattr__(self, name: str) -> object:
        if name.startswith("_"):  # copying and pickling ask before there is a tokenizer
            raise AttributeError(name)
        return getattr(self._tokenizer, name)

    def __call__(self, *arguments: object, **settings: object) -> object:
        return self._tokenizer(*arguments, **settings)

    def apply_chat_template(self, *arguments: object, **settings: object) -> str:
        return self._tokenizer.apply_chat_template(*arguments, **settings).removesuffix(HEADER)


REGRESSION, TRANSFORM = "regression_layer.weight", "reward_transform_matrix"
LOGIT_SCALE = "gating.logit_scale"
HEADS = ("regression_layer.", TRANSFORM, "gating.")
# a key of our own in config.json, with the names of the rewards; the published checkpoint has none
ATTRIBUTES = "attributes"
_NUMBERED = re.compile(r"gating\.layers\.(\d+)\.")
# what the checkpoint's own class assumes where config.json gives no temperature
_TEMPERATURE = 10
Shapes = Mapping[str, tuple[int, ...]]


def load_armorm(folder: Path, settings: ModelSettings, *, name: str) -> ModelReward:
    """Load transformer, head and tokenizer from `folder`.

    Raises `InputError` when a tensor is missing or does not fit, tokenizer or chat template are not
    Llama 3's, or the settings do not fit: a head is never drawn at random.
    """
    check_engine(settings, "gating", name)
    config = load_config(folder)
    weights = _read_head(folder, state_size(config))
    device = resolve_device(settings.device)
    tokenizer = load_tokenizer(folder)
    gate = gate_of(tokenizer, name)
    tokenizer = gated_tokenizer(tokenizer, gate, settings.format, name)
    vocabulary = config.get_text_config().vocab_size
    settings = replace(settings, format="chat", bos=settings.bos or "single")
    encoder = make_encoder(tokenizer, config, settings, name=name, vocabulary=vocabulary)
    dtype = dtype_as_stored(folder, settings.dtype, config, device)
    backbone = Backbone(
        load_transformer(folder, config, dtype, device, heads=[*HEADS, *_in_files(folder)]),
        pad_id=pad_id(config, tokenizer, vocabulary),
        name=name,
    )
    gate = replace(gate, max_length=encoder.max_length)
    head = GatingHead(weights, gate, _attributes(folder, len(weights.regression_KH)))
    engine = TransformersEngine(backbone, head, settings.batch_tokens)
    reward = ModelReward(encoder, engine, name=name, kind="armorm", non_finite=settings.non_finite)
    log.info("loaded reward model: %s", listed(reward.describe()))
    return reward


def _read_head(folder: Path, size: int) -> GatingWeights:
    """Read the head's tensors, for hidden states of H (`size`) numbers.

    Raises `InputError` where their shapes do not fit H, config.json or each other.
    """
    config = read_config(folder)
    whole = tensor_shapes(folder)
    names = bare_names(whole, HEADS)
    shapes = {bare: whole[name] for bare, name in names.items()}
    layers = _layers(folder, config, shapes)
    parts = [f"{layer}.{part}" for layer in layers for part in ("weight", "bias")]
    check_names(folder, shapes, [REGRESSION, TRANSFORM, *parts, LOGIT_SCALE], "gating")
    _check_shapes(folder, config, shapes, layers, size)
    tensors = read_tensors(folder, set(names.values()))
    found = {bare: tensors[name] for bare, name in names.items()}
    return GatingWeights(
        found[REGRESSION],
        found[TRANSFORM],
        [(found[f"{layer}.weight"], found[f"{layer}.bias"]) for layer in layers],
        logit_scale=float(found[LOGIT_SCALE]),
        temperature=_temperature(folder, config),
    )


def _in_files(folder: Path) -> Iterable[str]:
    return bare_names(tensor_shapes(folder), HEADS).values()


def _layers(folder: Path, config: Mapping[str, object], shapes: Shapes) -> list[str]:
    """Return the names of the gate's linear layers: as many as config.json says, else all."""
    found = len({match[1] for match in map(_NUMBERED.match, shapes) if match})
    hidden = config.get("gating_n_hidden", max(0, found - 1))
    if not isinstance(hidden, int) or hidden < 0:
        raise InputError(folder, f"gating_n_hidden={hidden!r} in config.json must be 0 or more")
    return [f"gating.layers.{number}" for number in range(hidden + 1)]


def _check_shapes(
    folder: Path, config: Mapping[str, object], shapes: Shapes, layers: Sequence[str], size: int
) -> None:
    outputs = config.get("num_objectives", _rows(shapes[REGRESSION]))
    hidden = config.get("gating_hidden_dim", _rows(shapes[f"{layers[0]}.weight"]))
    wanted: dict[str, tuple[object, ...]] = {
        REGRESSION: (outputs, size),
        TRANSFORM: (outputs, outputs),
        LOGIT_SCALE: (1,),
    }
    inputs: object = size
    for layer in layers:
        wide = outputs if layer == layers[-1] else hidden
        wanted |= {f"{layer}.weight": (wide, inputs), f"{layer}.bias": (wide,)}
        inputs = wide
    for name, shape in wanted.items():
        if shapes[name] != shape:
            raise InputError(
                folder,
                f"{name} is {list(shapes[name])}, expected {list(shape)}: tensors and "
                "config.json do not belong together",
            )


def _temperature(folder: Path, config: Mapping[str, object]) -> float:
    value = config.get("gating_temperature", _TEMPERATURE)
    if not isinstance(value, (int, float)) or not value > 0:
        raise InputError(folder, f"gating_temperature={value!r} in config.json must be above 0")
    return float(value)


def _attributes(folder: Path, count: int) -> Sequence[str] | None:
    """Return the names of the `count` rewards where config.json has some, else None.

    Raises `InputError` for names that are not `count` different ones.
    """
    found = read_config(folder).get(ATTRIBUTES)
    if found is None:
        return None
    names = [n for n in found if isinstance(n, str) and n] if is_list(found) else []
    if names != found or not len({*names}) == len(names) == count:
        raise InputError(
            folder,
            f"{ATTRIBUTES} in config.json must be {count} different names, one for each reward",
            "correct it or leave it out",
        )
    return names


def _rows(shape: Sequence[int]) -> int:
    return shape[0] if shape else 0
