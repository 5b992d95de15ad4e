"""Read what a checkpoint folder holds: its config, tensor names and shapes, and tensors by name.

Names and shapes come from file headers, so that no weight is loaded and no code is run; tensors are
read by name for heads that no class of transformers knows.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Collection, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from rewards.checkpoints.hub import local_folder
from rollout.types import InputError

if TYPE_CHECKING:
    import torch

__all__ = [
    "adapter_task",
    "check_files",
    "check_names",
    "has_chat_template",
    "read_config",
    "read_tensors",
    "tensor_shapes",
    "transformer_folder",
    "weight_files",
]

Shapes = dict[str, tuple[int, ...]]

ADAPTER = "adapter_config.json"
_PEFT = "base_model.model."  # before the names in an adapter
_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")
_VALUE_HEADS = ("value_head.safetensors", "value_head.bin")
_TOKENIZERS = (
    "tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt",
    "tokenizer_config.json", "tiktoken.model",
)  # fmt: skip
_POINTER = b"version https://git-lfs"  # in place of a file that was cloned without Git LFS


def read_config(folder: Path) -> dict[str, object]:
    """Return `config.json`, of an adapter that of its base model.

    Raises `InputError` when it is missing or malformed.
    """
    folder = transformer_folder(folder)
    return _read_json(folder / "config.json", "a model folder has a config.json")


def transformer_folder(folder: Path) -> Path:
    """Return the folder of config.json and the transformer's weights, of an adapter its base's.

    Raises `InputError` when the base is not named or not there, or `folder` has an adapter and a
    whole model.
    """
    if not (folder / ADAPTER).is_file():
        return folder
    if (folder / "config.json").is_file() and _main_files(folder):
        problem = f"holds a whole model and an adapter ({ADAPTER}), which may be in it already"
        raise InputError(folder, problem, f"remove {ADAPTER} if it was merged, else the model")
    base = _read_json(folder / ADAPTER).get("base_model_name_or_path")
    try:
        if not isinstance(base, str) or Path(base).resolve() == folder.resolve():
            raise InputError(ADAPTER, "names no base model")
        return local_folder(base)
    except InputError as error:
        fix = "correct base_model_name_or_path there, or merge the adapter and save it"
        raise InputError(folder, f"is an adapter: {error}", fix) from error


def check_files(folder: Path) -> None:
    """Check a model's files without loading one: config, headers of the weights, tokenizer.

    Raises `InputError` for one that is missing or damaged.
    """
    places = (folder, transformer_folder(folder))
    read_config(folder)
    for file in weight_files(folder):
        with file.open("rb") as opened:
            start = opened.read(len(_POINTER))
        if start in (_POINTER, b""):
            problem = "is empty" if not start else "is a pointer to a file that Git LFS did not get"
            raise InputError(file, problem, "copy it again, or run git lfs pull")
        if file.suffix == ".safetensors":
            _safetensors(file)
    if not any((place / name).is_file() for place in places for name in _TOKENIZERS):
        raise InputError(folder, "has no tokenizer", f"copy {_TOKENIZERS[0]} and its config there")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if (folder / name).is_file():
            _read_json(folder / name)


def has_chat_template(folder: Path) -> bool:
    """Return whether a model's files include a chat template."""
    config = folder / "tokenizer_config.json"
    stated = _read_json(config).get("chat_template") if config.is_file() else None
    others = ("chat_template.jinja", "chat_template.json", "additional_chat_templates")
    return bool(stated) or any((folder / name).exists() for name in others)


def adapter_task(folder: Path) -> str | None:
    """Return an adapter's `task_type`, "" where it names none; None where there is no adapter."""
    if transformer_folder(folder) == folder:
        return None
    return str(_read_json(folder / ADAPTER).get("task_type") or "")


def weight_files(folder: Path) -> list[Path]:
    """Return the weight files in transformers' order of preference: safetensors, else `.bin`.

    Of an adapter these are its base model's and its own. LLaMA-Factory's value head comes last.
    Raises `InputError` when there are no weights, or a shard of the index is missing.
    """
    base, main = transformer_folder(folder), _main_files(folder)
    if base != folder:  # TRL saves the head of an adapted model where a whole one would be
        main = [*weight_files(base), *_there(folder, _ADAPTERS)[:1], *main]
    if not main:
        fix = "expected model.safetensors or pytorch_model.bin"
        raise InputError(folder, "has no weights", fix)
    return [*main, *_there(folder, _VALUE_HEADS)[:1]]


def _main_files(folder: Path) -> list[Path]:
    for stem in ("model.safetensors", "pytorch_model.bin"):
        if (folder / stem).is_file():
            return [folder / stem]
        index = folder / f"{stem}.index.json"
        if index.is_file():
            return _shards(index)
    return []


def _there(folder: Path, names: Iterable[str]) -> list[Path]:
    return [folder / name for name in names if (folder / name).is_file()]


def tensor_shapes(folder: Path) -> Shapes:
    """Return the shape of every tensor in the checkpoint by its name.

    Of an adapter these are its own and its base model's, less those that the adapter replaces.
    """
    shapes = _shapes(weight_files(folder))
    if transformer_folder(folder) == folder:
        return shapes
    replaced = {name.removeprefix(_PEFT) for name in shapes if name.startswith(_PEFT)}
    return {name: shape for name, shape in shapes.items() if name not in replaced}


def _shapes(files: Iterable[Path]) -> Shapes:
    shapes: Shapes = {}
    for file in files:
        shapes.update(_safetensors(file) if file.suffix == ".safetensors" else _pickled(file))
    return shapes


def _shards(index: Path) -> list[Path]:
    weight_map = _read_json(index, "it lists the weight files").get("weight_map", {})
    if not isinstance(weight_map, dict):
        raise InputError(index, "weight_map names no files", "copy it again")
    files = sorted({index.parent / name for name in weight_map.values()})
    missing = [file.name for file in files if not file.is_file()]
    if missing or not files:
        what = missing[0] if missing else "any file"
        raise InputError(index.parent, f"lacks {what}, which {index.name} lists", "copy it again")
    return files


def _safetensors(file: Path) -> Shapes:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="np") as tensors:
            names = tensors.keys()
            return {name: tuple(tensors.get_slice(name).get_shape()) for name in names}
    except (SafetensorError, OSError) as error:
        problem = f"is not a whole safetensors file: {error}"
        raise InputError(file, problem, "copy or save it again") from error


def _pickled(file: Path) -> Shapes:
    import pickle

    import torch

    try:
        # "meta" reads names and shapes only; weights_only refuses to run code from the pickle
        state = torch.load(
            file, map_location="meta", weights_only=True, mmap=zipfile.is_zipfile(file)
        )
    except (pickle.UnpicklingError, EOFError, RuntimeError) as error:
        raise InputError(file, "is not a file of plain tensors (weights_only)") from error
    if not isinstance(state, dict):
        raise InputError(file, f"holds a {type(state).__name__}", "expected named tensors")
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def _read_json(path: Path, role: str = "") -> dict[str, object]:
    if not path.is_file():
        raise InputError(path.parent, f"has no {path.name}", role)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(path, f"is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise InputError(path, "is not a JSON object")
    return content


def check_names(folder: Path, found: Collection[str], wanted: Collection[str], head: str) -> None:
    """Check that `found` and `wanted` name the same tensors of a `head`.

    Raises `InputError` for one that is missing or has no use.
    """
    missing = [name for name in wanted if name not in found]
    if missing:
        raise InputError(
            folder,
            f"lacks the tensor {missing[0]} of its {head} head",
            "copy or save it again",
        )
    extra = sorted(set(found) - set(wanted))
    if extra:
        raise InputError(
            folder,
            f"has the tensor {extra[0]}, which its {head} head has no use for",
        )


def read_tensors(folder: Path, names: Collection[str]) -> dict[str, torch.Tensor]:
    """Return the tensors `names` on the CPU, in the dtype of the files; absent ones are skipped.

    Nothing else is read from safetensors files, and no code is run from `.bin` files.
    """
    found: dict[str, torch.Tensor] = {}
    for file in weight_files(folder):
        read = _read_safetensors if file.suffix == ".safetensors" else _read_pickled
        found.update(read(file, names))
    return found


def _read_safetensors(file: Path, names: Collection[str]) -> dict[str, torch.Tensor]:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        there = tensors.keys()
        return {name: tensors.get_tensor(name) for name in there if name in names}


def _read_pickled(file: Path, names: Collection[str]) -> dict[str, torch.Tensor]:
    import torch

    state = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    return {name: tensor.clone() for name, tensor in state.items() if name in names}
