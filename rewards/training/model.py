"""Load the model to train, from the folder of a language model or of an earlier classifier."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import nn

from rewards.checkpoints.hub import local_folder
from rewards.checkpoints.loading import check_left_out, load_config, load_tokenizer, load_weights
from rewards.inference.packed_attention import recomputing
from rewards.training import distributed
from rewards.training.layout import num_embeddings
from rewards.training.settings import TrainingSettings
from rollout.types import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

__all__ = ["load_trainable", "pad_id_of", "training_device"]

log = logging.getLogger("rewards")

Kind = Literal["classifier", "causal"]
HEAD = "score"
NEW_PAD = "[PAD]"


def training_device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    # of several processes each has a GPU of its own
    return torch.device(f"cuda:{distributed.local_rank()}" if distributed.count() > 1 else "cuda")


def load_trainable(
    path: str | Path, kind: Kind, settings: TrainingSettings
) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Return the model, on its device and wrapped by peft where `lora` is asked for, and tokenizer.

    A classifier's new head follows from the seed, and is float32 whatever the rest is. The
    tokenizer has a PAD that is not EOS, and the config has the same one: see `settle_pad`.

    Raises `InputError` when a tensor other than the head's is missing or one of the model has no
    place in it, or there is no such model.
    """
    from transformers import set_seed

    folder = local_folder(path)
    config, tokenizer = load_config(folder), load_tokenizer(folder)
    set_seed(settings.seed % 2**31)  # the head, and LoRA's matrices
    model = _from_files(folder, config, kind, _dtype(settings))
    if kind == "classifier":
        model.get_submodule(HEAD).float()
    settle_pad(model, tokenizer)
    if settings.gradient_checkpointing:
        model.gradient_checkpointing_enable({"use_reentrant": False, "context_fn": recomputing})
    if not settings.dropout:
        remove_dropout(model)
    # shards go to the device one by one: the whole model need not fit there
    place = torch.device("cpu") if settings.fsdp else training_device()
    return _with_lora(model, kind, settings).to(place), tokenizer


def settle_pad(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> None:
    """Give tokenizer and config the same PAD, which is neither EOS nor BOS.

    transformers' classifiers and vLLM read a score at the last token that is no PAD: were EOS the
    PAD, a text that ends with EOS would be read one token early. The tokenizer's own PAD is taken
    if it can be, then the config's; else "[PAD]" is added, as RLHFlow's scripts do, and embeddings
    grow if need be.
    """
    known = (tokenizer.pad_token_id, getattr(model.config, "pad_token_id", None))
    ids = [pad for pad in known if isinstance(pad, int)]
    rows = num_embeddings(model)
    taken = (tokenizer.eos_token_id, tokenizer.bos_token_id)
    pad = next((pad for pad in ids if pad not in taken and 0 <= pad < rows), None)
    if pad is not None and tokenizer.convert_ids_to_tokens(pad) is not None:
        tokenizer.pad_token = tokenizer.convert_ids_to_tokens(pad)
    else:
        tokenizer.add_special_tokens({"pad_token": NEW_PAD})
        log.info("added the token %s (%d) for padding", NEW_PAD, tokenizer.pad_token_id)
        if len(tokenizer) > rows:
            # the embedding of PAD is never read, so it need not be a mean of the others
            model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    model.config.pad_token_id = tokenizer.pad_token_id
    tokenizer.padding_side = "right"


def pad_id_of(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the id of the PAD that `settle_pad` has set."""
    assert isinstance(tokenizer.pad_token_id, int)
    return tokenizer.pad_token_id


def remove_dropout(model: nn.Module) -> None:
    """Turn off all dropout: modules, and rates that attention layers keep as plain numbers.

    With dropout the two sides of a pair would be scored by two different networks. The config is
    not changed.
    """
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for name, value in vars(module).items():
            if "dropout" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def _from_files(
    folder: Path, config: PreTrainedConfig, kind: Kind, dtype: torch.dtype
) -> PreTrainedModel:
    import transformers

    name = "SequenceClassification" if kind == "classifier" else "CausalLM"
    auto = getattr(transformers, f"AutoModelFor{name}")
    if type(config) not in auto._model_mapping:
        raise InputError(folder, f"no model for {name} is known for {config.model_type!r}")
    if kind == "classifier":
        config.num_labels = 1
    # a new head may be drawn at random, and nothing else
    model, unexpected = load_weights(auto, folder, config, dtype, new=(f"{HEAD}.",))
    check_left_out(folder, model, unexpected, heads=())
    if kind == "classifier" and not isinstance(getattr(model, HEAD, None), nn.Linear):
        raise InputError(
            f"{type(model).__name__}",
            "has no linear head named score: not supported",
        )
    return model


def _dtype(settings: TrainingSettings) -> torch.dtype:
    if settings.dtype == "auto":
        frozen = settings.lora is not None and training_device().type == "cuda"
        return torch.bfloat16 if frozen else torch.float32
    return getattr(torch, settings.dtype)


def _with_lora(model: PreTrainedModel, kind: Kind, settings: TrainingSettings) -> nn.Module:
    """Put adapters on the frozen model where `lora` is set; a score head is trained whole."""
    from peft import LoraConfig, get_peft_model

    lora = settings.lora
    if lora is None:
        return model
    wrapped = get_peft_model(
        model,
        LoraConfig(
            task_type="SEQ_CLS" if kind == "classifier" else "CAUSAL_LM",
            r=lora.r,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=lora.target_modules,
            modules_to_save=[HEAD] if kind == "classifier" else None,
        ),
    )
    if settings.gradient_checkpointing:
        wrapped.enable_input_require_grads()
    return wrapped
