"""Load an encoder with a classification head (BERT and its kin) as a reward model.

The model is run as a whole, so that transformers applies the pooling of its architecture. Its input
is what its tokenizer makes of a text, or of prompt and response as a pair.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from rewards.checkpoints.checkpoint import read_config, tensor_shapes
from rewards.checkpoints.families import architecture_of
from rewards.checkpoints.heads import find_head
from rewards.checkpoints.loading import (
    check_left_out,
    load_config,
    load_tokenizer,
    load_weights,
    longest,
    make_encoder,
    pad_id,
    resolve_device,
    resolve_dtype,
)
from rewards.checkpoints.settings import ModelSettings
from rewards.encoding.encoder import Encoder
from rewards.encoding.formats import Scorable
from rewards.inference.backbone import Backbone
from rewards.inference.transformers import TransformersEngine
from rewards.models.reward import ModelReward
from rewards.models.transformer import check_engine
from rollout.data.messages import checked_conversation
from rollout.text.printable import listed
from rollout.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedTokenizerBase

__all__ = ["is_encoder", "load_cross_encoder", "text_encoder"]

log = logging.getLogger("rewards")

HEAD = "classifier."
_PROBE = "a"
# architectures whose first position has the number behind the id of their PAD
_LATE_POSITIONS = ("roberta", "xlm-roberta", "camembert", "longformer", "xlm-roberta-xl", "mpnet")


def is_encoder(folder: Path) -> bool:
    """Return whether `folder` holds an encoder with a classification head.

    Decoders of transformers name their head `score`, encoders `classifier`.
    """
    config, shapes = read_config(folder), tensor_shapes(folder)
    named = architecture_of(config).endswith("ForSequenceClassification")
    headed = any(name.startswith(HEAD) for name in shapes)
    return named and headed and not find_head(folder, config, shapes).names


def load_cross_encoder(folder: Path, settings: ModelSettings, *, name: str) -> ModelReward:
    """Load model and tokenizer from `folder`.

    Without a chat template the model reads prompt and response as a pair, as the published ones
    (OpenAssistant's DeBERTa) do. Raises `InputError` when a tensor is missing, the head has more
    than one output, or the settings do not fit.
    """
    check_engine(settings, "classification", name)
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    _check_outputs(folder)
    encoder = text_encoder(config, tokenizer, settings, name)
    device = resolve_device(settings.device)
    config.num_labels = 1
    model, unexpected = load_weights(
        _auto(), folder, config, resolve_dtype(settings.dtype, config, device)
    )
    check_left_out(folder, model, unexpected, heads=())
    backbone = _WholeModel(
        model.to(device), pad_id=pad_id(config, tokenizer, encoder.vocabulary), name=name
    )
    if encoder.format == "plain":
        backbone.pair_end = _pair_end(tokenizer, name)
    engine = TransformersEngine(backbone, _Logit(), settings.batch_tokens)
    reward = ModelReward(
        encoder, engine, name=name, kind="classifier", non_finite=settings.non_finite
    )
    log.info("loaded reward model: %s", listed(reward.describe()))
    return reward


def _auto() -> Any:
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification


def _check_outputs(folder: Path) -> None:
    shapes = tensor_shapes(folder)
    last = next(
        (one for part in ("out_proj.", "") if (one := f"{HEAD}{part}weight") in shapes), None
    )
    if last is not None and shapes[last][0] != 1:
        problem = f"{last} is {list(shapes[last])}: a reward model has one output, [1, hidden size]"
        raise InputError(folder, problem)


def text_encoder(
    config: PreTrainedConfig,
    tokenizer: PreTrainedTokenizerBase,
    settings: ModelSettings,
    name: str,
) -> Encoder:
    """Return how an encoder reads conversations. Raises `InputError` for unfit settings."""
    if settings.bos is not None or settings.eos == "single":
        problem = "is an encoder, whose special tokens are its tokenizer's own"
        raise InputError(name, problem, "leave bos and eos out")
    open_end = replace(settings, eos="none")
    made = make_encoder(tokenizer, config, open_end, name=name, vocabulary=config.vocab_size)
    limit = settings.max_length or longest(config, tokenizer)
    positions = getattr(config, "max_position_embeddings", None)
    if config.model_type in _LATE_POSITIONS and positions and limit:
        limit = min(limit, positions - (config.pad_token_id or 0) - 1)
    values = {one.name: getattr(made, one.name) for one in fields(made) if one.init}
    return _TextEncoder(**{**values, "max_length": limit})


@dataclass
class _TextEncoder(Encoder):
    """An `Encoder` whose special tokens are those that the tokenizer adds, also between two texts.

    In format "plain" the two are prompt and response.
    """

    def _tokens(self, conversations: Sequence[Scorable], names: Sequence[str]) -> list[list[int]]:
        texts = [self._named_text(*pair) for pair in zip(conversations, names, strict=True)]
        rows = zip(texts, conversations, strict=True)
        return [self._row(text, conversation) for text, conversation in rows]

    def _row(self, text: str, conversation: Scorable) -> list[int]:
        parts = [text]
        if self.format == "plain" and not isinstance(conversation, str):
            *before, last = checked_conversation(conversation, "conversation")
            parts = ["".join(turn["content"] for turn in before), last["content"]]
        return self.tokenizer(*parts, truncation=False, verbose=False)["input_ids"]

    @property
    def _front(self) -> int:
        whole, bare = self.tokenizer(_PROBE)["input_ids"], self._bare()
        starts = range(len(whole) - len(bare) + 1)
        return next((at for at in starts if whole[at : at + len(bare)] == bare), 0)

    @property
    def _back(self) -> int:
        return len(self.tokenizer(_PROBE)["input_ids"]) - len(self._bare()) - self._front

    def _bare(self) -> list[int]:
        return self.tokenizer(_PROBE, add_special_tokens=False)["input_ids"]


def _pair_end(tokenizer: PreTrainedTokenizerBase, name: str) -> int | None:
    """Return the id of the token that ends the first of two texts, or None.

    It is None where the tokenizer gives both texts the same type. Raises `InputError` for types
    that change at another place.
    """
    found = tokenizer(_PROBE, _PROBE)
    types = found.get("token_type_ids")
    if types is None or not any(types):
        return None
    end = tokenizer.sep_token_id
    if not isinstance(end, int) or types != _types(found["input_ids"], end):
        raise InputError(name, "its tokenizer marks pairs in a way that is not known here")
    return end


def _types(ids: Sequence[int], end: int) -> list[int]:
    first = ids.index(end) + 1
    return [0] * first + [1] * (len(ids) - first)


class _WholeModel(Backbone):
    """Backbone and head in one: its "states" (B, 1, 1) are the logits. `pair_end` is the token
    behind which the second of two texts begins."""

    pair_end: int | None = None

    def _why_not_packed(self) -> str:
        return "an encoder's tokens see what comes after them"

    def _padded(self, rows: Sequence[Sequence[int]], positions: Sequence[Sequence[int]]) -> Any:
        inputs = self._batch(rows)
        if self.pair_end is not None and getattr(self.model.config, "type_vocab_size", 0) > 1:
            types_BT = torch.zeros_like(inputs["input_ids"])
            for index, row in enumerate(rows):
                types_BT[index, : len(row)] = torch.tensor(_types(row, self.pair_end))
            inputs["token_type_ids"] = types_BT
        return self.model(**inputs).logits[:, None].float()


class _Logit:
    """The head of a model that is run as a whole: it passes on the model's one logit."""

    def positions(self, ids: Sequence[int], name: str) -> Sequence[int]:
        return (0,)

    def outputs(self, states_BQH: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"score": states_BQH[:, 0, 0]}

    def describe(self) -> dict[str, object]:
        return {"head": "classification", "pooling": "the architecture's own"}

    def to(self, device: str) -> None:
        """Do nothing: the backbone has all weights."""
