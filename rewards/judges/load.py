"""Load a pairwise judge from a folder or the hub.

A pairwise preference model is a language model of which two labels are read: the log-odds of the
next token "A" against "B".
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import nn

from rewards.checkpoints.checkpoint import read_config, tensor_shapes
from rewards.checkpoints.families import FAMILIES, architecture_of, check_family, recognise
from rewards.checkpoints.hub import local_folder
from rewards.checkpoints.loading import (
    check_left_out,
    check_vllm_device,
    load_config,
    load_tokenizer,
    load_weights,
    longest,
    pad_id,
    resolve_device,
    resolve_dtype,
)
from rewards.checkpoints.settings import ModelSettings
from rewards.inference.backbone import Backbone
from rewards.inference.transformers import TransformersEngine
from rewards.inference.vllm import VLLMLabelEngine
from rewards.judges.judge import PairwiseJudge, check_temperature
from rewards.judges.prompt import PairPrompt
from rewards.models.load import known_settings
from rewards.types import EngineName, Family, NonFinite
from rollout.text.printable import listed
from rollout.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from rewards.judges.judge import PairwiseJudge

__all__ = [
    "LabelHead",
    "load_judge",
    "load_pairwise",
    "load_prompt",
]


def load_judge(
    path: str | Path,
    *,
    kind: Literal["pairwise"] | None = None,
    engine: EngineName | None = None,
    dtype: str | None = None,
    device: str | None = None,
    max_length: int | None = None,
    batch_tokens: int | None = None,
    gpu_memory: float | None = None,
    temperature: float = 1.0,
    non_finite: NonFinite = "raise",
) -> PairwiseJudge:
    """Load the pairwise preference model in a local folder or on the hub.

    The files of a judge look like any language model's: give kind="pairwise", unless it is a
    published judge or one that `raft train-reward` made.
    `max_length` (the model's own limit by default) cuts the beginning of contexts, never responses;
    `gpu_memory` is the share of a GPU that vLLM may take; `temperature` divides the log-odds.

    Raises `InputError` for a missing or unsuitable checkpoint or setting. No remote code is run.
    """
    settings = ModelSettings(
        engine=engine or "auto",
        dtype=dtype,
        device=device,
        max_length=max_length,
        batch_tokens=batch_tokens,
        gpu_memory=gpu_memory,
        non_finite=non_finite,
    )
    if kind is not None:
        check_family(kind)
    known, settings = known_settings(path, settings)
    family: Family | None = kind or known
    _refuse_reward(family, str(path))
    folder = local_folder(path)
    _check_language_model(folder, said=family is not None)
    return load_pairwise(folder, settings, name=str(path), temperature=temperature)


def _refuse_reward(family: Family | None, name: str) -> None:
    if family not in (None, "pairwise"):
        raise InputError(
            name,
            f"is {FAMILIES[family]}: it scores and does not compare",
            "use load_reward, or reward.kind: model",
        )


def _check_language_model(folder: Path, *, said: bool) -> None:
    """Check that `folder` holds a judge: a recorded one, or a language model where `said`.

    `said`: the caller, or a published name, says that it is a judge. Raises `InputError` for a
    reward model, for a language model that nobody calls a judge, and where there are no weights.
    """
    tensor_shapes(folder)  # raises a message of its own where there are no weights
    try:
        family = recognise(folder)
    except InputError:
        if said and architecture_of(read_config(folder)).endswith("ForCausalLM"):
            return
        raise
    _refuse_reward(family, str(folder))


class LabelHead:
    """The log-odds ℓ_A − ℓ_B of two labels at a row's last token.

    Computed from two rows of a language model's output embedding.

    Args:
        weight: the rows of A and of B (2, H), tied to the input embedding or not.
        bias: (2,) or None.
        scale: factor that the model multiplies its logits by.
        softcap: logits ℓ become c·tanh(ℓ/c) (Gemma's `final_logit_softcapping`).
    """

    def __init__(
        self,
        weight: torch.Tensor,
        bias: torch.Tensor | None = None,
        *,
        scale: float = 1.0,
        softcap: float | None = None,
    ) -> None:
        self.weight = weight.detach().float()
        self.bias = None if bias is None else bias.detach().float()
        self.scale = scale
        self.softcap = softcap

    def positions(self, ids: Sequence[int], name: str) -> Sequence[int]:
        return (len(ids) - 1,)

    def outputs(self, states_BQH: torch.Tensor) -> dict[str, torch.Tensor]:
        states_BH = states_BQH[:, 0]
        if self.softcap is not None:
            logits_B2 = self.logits(states_BH)
            return {"log_odds": logits_B2[:, 0] - logits_B2[:, 1]}
        # one product: the difference of two large logits would keep fewer digits
        log_odds_B = states_BH @ (self.weight[0] - self.weight[1])
        if self.bias is not None:
            log_odds_B = log_odds_B + (self.bias[0] - self.bias[1])
        return {"log_odds": self.scale * log_odds_B}

    def logits(self, states_NH: torch.Tensor) -> torch.Tensor:
        """Return the logits of A and B (N, 2) as the model gives them, scaled and soft-capped."""
        logits_N2 = self.scale * nn.functional.linear(states_NH, self.weight, self.bias)
        if self.softcap is None:
            return logits_N2
        return self.softcap * torch.tanh(logits_N2 / self.softcap)

    def describe(self) -> dict[str, object]:
        return {"head": "labels", "pooling": "last token"}

    def to(self, device: str) -> None:
        self.weight = self.weight.to(device)
        self.bias = None if self.bias is None else self.bias.to(device)


log = logging.getLogger("rewards")

# largest difference allowed between the head's logits and the model's own, as a share of the
# largest of these, per dtype
_TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}


def load_pairwise(
    folder: Path,
    settings: ModelSettings,
    *,
    name: str,
    temperature: float = 1.0,
) -> PairwiseJudge:
    """Load model and tokenizer from `folder`.

    Raises `InputError` when the tokenizer does not fit (see `PairPrompt`), a tensor is missing, the
    model does something unknown to its logits, or the settings do not fit.
    """
    check_temperature(temperature)
    config, prompt = load_config(folder), load_prompt(folder, settings.max_length)
    if settings.engine == "vllm":
        engine = _vllm_engine(folder, config, prompt, settings)
    else:
        engine = _transformers_engine(folder, config, prompt, settings, name)
    judge = PairwiseJudge(
        prompt, engine, name=name, temperature=temperature, non_finite=settings.non_finite
    )
    log.info("loaded judge: %s", listed(judge.describe()))
    return judge


def load_prompt(path: str | Path, max_length: int | None = None) -> PairPrompt:
    """Load the `PairPrompt` of a judge, without its weights. Raises as `PairPrompt` does."""
    folder = local_folder(path)
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    vocabulary = config.get_text_config().vocab_size
    return PairPrompt(tokenizer, vocabulary, max_length or longest(config, tokenizer))


def _vllm_engine(
    folder: Path,
    config: PreTrainedConfig,
    prompt: PairPrompt,
    settings: ModelSettings,
) -> VLLMLabelEngine:
    device = check_vllm_device(settings.device)
    engine = VLLMLabelEngine(
        str(folder),
        label_ids=prompt.label_ids,
        dtype=str(resolve_dtype(settings.dtype, config, device)).removeprefix("torch."),
        max_length=prompt.max_length,
        gpu_memory=settings.gpu_memory,
        batch_tokens=settings.batch_tokens,
    )
    # vLLM reserves one token of its maximal length for the label that it draws
    prompt.max_length = engine.max_length
    return engine


def _transformers_engine(
    folder: Path, config: PreTrainedConfig, prompt: PairPrompt, settings: ModelSettings, name: str
) -> TransformersEngine:
    from transformers import AutoModelForCausalLM

    device = resolve_device(settings.device)
    dtype = resolve_dtype(settings.dtype, config, device)
    model, unexpected = load_weights(AutoModelForCausalLM, folder, config, dtype)
    check_left_out(folder, model, unexpected, heads=())
    model = model.eval().to(device)
    # the head is checked first: with a packed backbone the model's own forward pass no longer runs
    head = _label_head(model, prompt.label_ids, config)
    pad = pad_id(config, prompt.tokenizer, prompt.vocabulary)
    backbone = Backbone(model.base_model, pad_id=pad, name=name)
    return TransformersEngine(backbone, head, settings.batch_tokens)


def _label_head(model: Any, label_ids: tuple[int, int], config: PreTrainedConfig) -> LabelHead:
    """Return the head that gives the model's own logits of the two labels.

    Configs have many names for a scale or a soft cap of the logits, and one name has several
    meanings. So every scale and cap that the config may mean is tried on random ids, and the
    closest to the model's own logits is used. Raises `InputError` where none is close enough, or
    the model has no output embedding.
    """
    output, labels = model.get_output_embeddings(), list(label_ids)
    if output is None or model.base_model is model:
        raise InputError(
            f"{type(model).__name__}",
            "has no output embedding to read: not supported",
        )
    bias = getattr(output, "bias", None)
    bias_2 = None if bias is None else bias[labels]
    states_TH, expected_T2 = _try_out(model, labels)
    largest = float(expected_T2.abs().max().clamp_min(1e-12))
    found: list[tuple[float, int, LabelHead]] = []
    for scale, softcap in _logit_settings(config):
        head = LabelHead(output.weight[labels], bias_2, scale=scale, softcap=softcap)
        error = float((head.logits(states_TH) - expected_T2).abs().max()) / largest
        found.append((error, len(found), head))
    error, _, head = min(found)
    if not error <= _TOLERANCE.get(output.weight.dtype, 1e-4):
        raise InputError(
            f"{type(model).__name__}",
            f"does something to its logits that is not known here (they are {error:.1e} away "
            "from its output embedding's): not supported",
        )
    return head


@torch.inference_mode()
def _try_out(model: Any, labels: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return hidden states (T, H) of T random ids, and the model's own logits (T, 2) there."""
    vocabulary, device = model.get_output_embeddings().weight.shape[0], model.device
    draw = torch.Generator().manual_seed(0)
    ids_1T = torch.randint(vocabulary, (1, 16), generator=draw).to(device)
    states_1TH = model.base_model(input_ids=ids_1T, use_cache=False).last_hidden_state
    logits_1TV = model(input_ids=ids_1T, use_cache=False).logits
    return states_1TH[0].float(), logits_1TV[0][:, labels].float()


def _logit_settings(config: PreTrainedConfig) -> list[tuple[float, float | None]]:
    """Return the pairs (scale, soft cap or None) that the config may mean.

    Each scale is there with its inverse: a divisor in Granite is a factor elsewhere.
    """
    text = config.get_text_config()
    scales = [1.0]
    for key in ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier"):
        value = getattr(text, key, None)
        if isinstance(value, int | float) and value:
            scales += [float(value), 1 / float(value)]
    softcap = getattr(text, "final_logit_softcapping", None)
    return [(scale, float(softcap) if softcap else None) for scale in scales]
