"""List the settings of published reward models, as their cards and training code use them.

A model that is given another format, or another number of BOS tokens, still gives scores, but less
accurate ones. `PUBLISHED` has the names for which the right settings are known.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rewards.types import Bos, Eos, Family, Format

__all__ = ["PUBLISHED", "Published", "find_published"]


@dataclass(frozen=True, slots=True)
class Published:
    """The settings of one published model.

    None leaves `dtype` as the checkpoint was saved, and `max_length` at what the model can take.
    """

    family: Family
    format: Format | None = None
    bos: Bos | None = None
    dtype: str | None = None
    max_length: int | None = None
    eos: Eos = "none"


def _chat(bos: Bos, dtype: str | None = "bfloat16") -> Published:
    return Published("classifier", "chat", bos, dtype)


def _grm(dtype: str | None) -> Published:
    return Published("grm", "chat", "double", dtype)


PUBLISHED: dict[str, Published] = {
    # trained on plain text without a separator between the turns
    "weqweasdas/hh_rlhf_rm_open_llama_3b": Published("classifier", "hh_hash", "single", "bfloat16"),
    # the card tokenises the rendered template once more, which adds a second BOS
    "Ray2333/reward-model-Mistral-7B-instruct-Unified-Feedback": _chat("double", "float16"),
    # RLHFlow's recipe removes the template's BOS before it tokenises
    "sfairXC/FsfairX-LLaMA3-RM-v0.1": _chat("single"),
    "weqweasdas/RM-Gemma-2B": _chat("single"),
    "weqweasdas/RM-Gemma-7B": _chat("single"),
    "weqweasdas/RM-Mistral-7B": _chat("single"),
    "Skywork/Skywork-Reward-Gemma-2-27B": _chat("single"),
    "Skywork/Skywork-Reward-Gemma-2-27B-v0.2": _chat("single"),
    "Skywork/Skywork-Reward-Llama-3.1-8B": _chat("single"),
    "Skywork/Skywork-Reward-Llama-3.1-8B-v0.2": _chat("single"),
    # GRM's training code keeps both BOS tokens, for its plain classifiers too
    "Ray2333/GRM-Llama3.2-3B-rewardmodel-ft": _chat("double", None),
    "Ray2333/GRM-gemma2-2B-rewardmodel-ft": _chat("double", None),
    "Ray2333/GRM-Gemma-2B-rewardmodel-ft": _chat("double", None),
    "Ray2333/GRM-Llama3-8B-rewardmodel-ft": _chat("double", None),
    "Ray2333/GRM-llama3-8B-distill": _chat("double", None),
    "Ray2333/GRM-llama3.2-3B-sftreg": _grm("float16"),
    "Ray2333/GRM-llama3-8B-sftreg": _grm("bfloat16"),
    "Ray2333/GRM-Gemma-2B-sftreg": _grm(None),
    "Ray2333/GRM-gemma2-2B-sftreg": _grm(None),
    # the card cuts on the right; the left keeps the closing token, which is scored, and RewardBench
    # cuts there too
    "RLHFlow/ArmoRM-Llama3-8B-v0.1": Published("armorm", "chat", "single", "bfloat16", 4096),
    "openbmb/UltraRM-13b": Published("classifier", "ultrarm", "single"),
    **{
        f"PKU-Alignment/beaver-7b-{version}-reward": Published(
            "classifier", "beaver", "single", eos="single"
        )
        for version in ("v1.0", "v2.0", "v3.0")
    },
    "RLHFlow/pair-preference-model-LLaMA3-8B": Published("pairwise"),
}


def find_published(path: str | Path) -> tuple[str, Published] | None:
    """Return name and settings of a published model, by hub name or by the folder it was copied to.

    A folder counts when it has the model's own name, or lies in the hub cache's
    `models--owner--name`. Case is ignored, since the hub ignores it. Other models give None.
    """
    parts = Path(str(path).lower()).parts
    for name, settings in PUBLISHED.items():
        owner, _, short = name.lower().partition("/")
        if parts[-1:] == (short,) or f"models--{owner}--{short}" in parts:
            return name, settings
    return None
