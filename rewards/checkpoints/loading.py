"""Load the parts that every family is made of: device, dtype, config, weights, tokenizer, encoder.

`check_tensors` checks that a checkpoint has every tensor of its model, for engines that report no
missing ones.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch

from rewards.checkpoints.checkpoint import tensor_shapes, transformer_folder
from rewards.checkpoints.settings import ModelSettings
from rewards.encoding.bos import default_bos
from rewards.encoding.encoder import Encoder
from rewards.encoding.eos import default_eos
from rewards.types import Format
from rollout.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase
    from transformers.models.auto.auto_factory import _BaseAutoModelClass

__all__ = [
    "attention_of",
    "check_left_out",
    "check_not_quantised",
    "check_tensors",
    "check_vllm_device",
    "load_config",
    "load_tokenizer",
    "load_weights",
    "longest",
    "make_encoder",
    "one_line",
    "pad_id",
    "resolve_device",
    "resolve_dtype",
]

log = logging.getLogger("rewards")

_DTYPES = {name: getattr(torch, name) for name in ("float32", "float16", "bfloat16")}
_TOKENIZER_FILES = ("tokenizer_config.json", "tokenizer.json", "tokenizer.model")
# tokenizers without a limit give 1e30 as `model_max_length`
_NO_LIMIT = 10**9


def resolve_device(device: str | None) -> torch.device:
    """Return the torch device; None and "auto" mean a GPU where there is one, else the CPU.

    Raises `InputError` for an unknown device, or a GPU where there is none.
    """
    if device in (None, "auto"):
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        place = torch.device(device)
    except RuntimeError:
        place = None
    if place is None or place.type not in ("cpu", "cuda"):
        raise InputError(f"device={device!r}", "is unknown", "use auto, cpu, or cuda:N")
    if place.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device={device!r}", "torch sees no GPU here", "use cpu")
    return place


def resolve_dtype(dtype: str | None, config: PreTrainedConfig, device: torch.device) -> torch.dtype:
    """Return the dtype that is asked for; else the checkpoint's own on a GPU and float32 on a CPU.

    Raises `InputError` for an unknown dtype.
    """
    if dtype is not None:
        name = str(dtype).removeprefix("torch.")
        if name not in _DTYPES:
            raise InputError(f"dtype={dtype!r}", "is unknown", f"use one of {', '.join(_DTYPES)}")
        return _DTYPES[name]
    # CPUs are slow in 16 bits, and float32 holds every 16-bit weight exactly
    # a loaded config holds a torch.dtype, never its name
    saved = cast("torch.dtype", config.dtype or torch.float32)
    return torch.float32 if device.type == "cpu" else saved


def load_config(folder: Path) -> PreTrainedConfig:
    """Return transformers' config, with no PAD id beyond the embedding and no key-value cache.

    Raises `InputError` for a config that transformers cannot use, and for encoder-decoder models.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    base = transformer_folder(folder)
    try:
        config = AutoConfig.from_pretrained(base, trust_remote_code=False)
    except (OSError, ValueError, KeyError, TypeError, StrictDataclassError) as error:
        raise InputError(folder, f"config.json is not usable: {one_line(error)}") from error
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            folder,
            f"encoder-decoder models ({config.model_type}) are not supported",
        )
    config.use_cache = False
    if not 0 <= (getattr(config, "pad_token_id", None) or 0) < config.get_text_config().vocab_size:
        config.pad_token_id = None  # never used here, and torch refuses ids beyond the embedding
    return config


def attention_of(config: PreTrainedConfig) -> str | None:
    """Return "eager" where attention scores are soft-capped (Gemma 2), else None for the default.

    All implementations but eager attention skip the soft-capping without a warning.
    """
    capped = getattr(config.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if capped else None


def check_not_quantised(folder: Path, config: PreTrainedConfig) -> None:
    """Refuse quantised weights with `InputError`: each method needs a library of its own."""
    found = getattr(config, "quantization_config", None)
    if found is not None:
        method = found.get("quant_method") if isinstance(found, dict) else found
        problem = f"is quantised ({method or 'quantization_config'}), which is not supported"
        raise InputError(folder, problem, "take the weights that it was made from")


def load_weights(
    auto: type[_BaseAutoModelClass],
    folder: Path,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    *,
    new: tuple[str, ...] = (),
    **more: object,
) -> tuple[Any, list[str]]:
    """Return `auto`'s model for `config`, and the names of the checkpoint's tensors that it lacks.

    `auto` (AutoModel…) finds the class; an adapter is merged into its base model. Raises
    `InputError` for a tensor that the checkpoint lacks, which transformers would draw at random,
    unless its name begins as one of `new`; also for quantised weights.
    """
    base = transformer_folder(folder)
    check_not_quantised(base, config)
    try:
        model, report = auto.from_pretrained(
            base,
            config=config,
            dtype=dtype,
            attn_implementation=attention_of(config),
            trust_remote_code=False,
            weights_only=True,
            output_loading_info=True,
            **more,
        )
    except (OSError, ValueError, RuntimeError, ImportError) as error:
        raise InputError(folder, f"cannot be loaded: {one_line(error)}") from error
    missing = sorted(key for key in report["missing_keys"] if not (new and key.startswith(new)))
    if missing:
        # a headless class names its tensors without the prefix that they have in the file
        prefix = f"{model.base_model_prefix}." if model.base_model is model else ""
        raise InputError(folder, f"lacks the tensor {prefix}{missing[0]} ({len(missing)} in all)")
    if base != folder:
        model = _with_adapter(model, folder)
    return model, sorted(report["unexpected_keys"])


def _with_adapter(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """Return `model` with the adapter of `folder` merged into it.

    Raises `InputError` where peft would ignore a part of the adapter, or cannot merge it.
    """
    from peft import PeftModel, get_peft_model_state_dict

    stored = tensor_shapes(folder)
    try:
        wrapped = PeftModel.from_pretrained(model, str(folder))
        taken = get_peft_model_state_dict(wrapped)
        whole = cast("PreTrainedModel", wrapped.merge_and_unload())
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        fix = "merge it with peft (merge_and_unload) and save the whole model"
        raise InputError(folder, f"its adapter cannot be merged: {one_line(error)}", fix) from error
    if left := sorted(name for name in stored if ".lora_" in name and name not in taken):
        raise InputError(folder, f"its adapter has {left[0]}, for which the base has no place")
    log.info("%s: an adapter, merged into its base model", folder)
    return whole


def check_left_out(
    folder: Path, model: PreTrainedModel, unexpected: Iterable[str], heads: tuple[str, ...]
) -> None:
    """Check that no `unexpected` tensor belongs to the model itself, or is an unmerged LoRA weight.

    Without it every score would change in silence. Raises `InputError` for such a tensor. `heads`
    are the beginnings of names that belong to another head; tensors of no known use are logged.
    """
    own = tuple(f"{name}." for name in (model.base_model_prefix, *dict(model.named_children())))
    for name in sorted(unexpected):
        if ".lora_" in name:
            raise InputError(folder, f"has LoRA weights ({name})", "merge them and save it again")
        if name.startswith(heads) or ".lm_head." in f".{name}":
            log.debug("%s: %s is not part of the transformer", folder, name)
        elif name.startswith(own) and not name.endswith("rotary_emb.inv_freq"):
            raise InputError(
                folder,
                f"has the tensor {name}, for which {type(model).__name__} has no place: "
                "config.json and weights do not belong together",
            )
        else:
            log.warning("%s: the tensor %s is not used", folder, name)


def check_vllm_device(device: str | None) -> torch.device:
    """Return the device for a vLLM engine. Raises `InputError` for one that vLLM would not take."""
    place = resolve_device(device)
    if place.index or (place.type == "cpu" and torch.cuda.is_available()):
        raise InputError(
            f"device={device!r}",
            "vLLM takes the first GPU that it sees",
            "set CUDA_VISIBLE_DEVICES, or use engine: transformers",
        )
    return place


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    from transformers import AutoTokenizer

    own = any((folder / name).is_file() for name in _TOKENIZER_FILES)
    home = folder if own else transformer_folder(folder)
    try:
        return AutoTokenizer.from_pretrained(home, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(folder, f"its tokenizer cannot be loaded: {one_line(error)}") from error


def make_encoder(
    tokenizer: PreTrainedTokenizerBase,
    config: PreTrainedConfig,
    settings: ModelSettings,
    *,
    name: str,
    vocabulary: int,
) -> Encoder:
    """Return the encoder of a model, with defaults for what `settings` leave open.

    They are format "chat" where there is a template, else "plain"; the BOS that tokenizer or
    template would add once; EOS after plain text; and the length that model and tokenizer can take.
    """
    format = settings.format or _default_format(tokenizer, name)
    eos = settings.eos or default_eos(tokenizer, format)
    if eos != "none" and settings.eos is None:
        log.info('%s: eos="single" behind plain text, as TRL trains; eos: none leaves it out', name)
    return Encoder(
        tokenizer,
        format=format,
        bos=settings.bos or default_bos(tokenizer, format),
        eos=eos,
        vocabulary=vocabulary,
        max_length=settings.max_length or longest(config, tokenizer),
        truncation_side=settings.truncation_side,
        separator=settings.separator,
        chat_template_kwargs=settings.chat_template_kwargs or {},
    )


def pad_id(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, vocabulary: int) -> int:
    """Return a PAD id within the vocabulary: the config's, else the tokenizer's, else 0.

    Old configs name -1, or an id that was never added to the embedding.
    """
    text = config.get_text_config()
    for candidate in (getattr(text, "pad_token_id", None), tokenizer.pad_token_id):
        if isinstance(candidate, int) and 0 <= candidate < vocabulary:
            return candidate
    return 0


def one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _default_format(tokenizer: PreTrainedTokenizerBase, name: str) -> Format:
    if tokenizer.chat_template:
        return "chat"
    log.warning('%s: no chat template and no known format; using format="plain"', name)
    return "plain"


def longest(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase) -> int | None:
    """Return how many tokens model and tokenizer can take; None where neither states a limit."""
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    limits = [limit for limit in (positions, tokenizer.model_max_length) if limit]
    known = [int(limit) for limit in limits if limit < _NO_LIMIT]
    return min(known) if known else None


def check_tensors(folder: Path, auto_class: str) -> None:
    """Check that the checkpoint has every tensor of transformers' `auto_class`, by names alone.

    vLLM merges some tensors (gate and up, query, key and value), counts the merged one as loaded
    when one part was, and would compute with whatever the memory of the other parts held.

    Raises `InputError` naming a tensor that is not there, and for an adapter.
    """
    import transformers

    if transformer_folder(folder) != folder:
        fix = "merge it and save it, or use engine: transformers"
        raise InputError(folder, "is an adapter, and vLLM is given whole models", fix)
    with torch.device("meta"):
        model = getattr(transformers, auto_class).from_config(load_config(folder))
    tied = getattr(model, "all_tied_weights_keys", None) or {}
    missing = sorted(set(model.state_dict()) - set(tensor_shapes(folder)) - set(tied))
    if missing:
        raise InputError(
            folder,
            f"lacks the tensor {missing[0]} ({len(missing)} in all), or has it under another name",
            "copy it again, or use engine: transformers",
        )
