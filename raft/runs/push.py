"""`raft push`: upload a run's policy to the hub, with a card of its reward, K, curve and data."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import yaml

from raft.monitor.guards import best_iteration
from raft.report.summary import config_text, read_config
from raft.runs.folder import stored_policies
from raft.runs.metrics import Numbers, read_numbers
from rollout.data.jsonl import is_object
from rollout.errors import InputError
from rollout.storage.files import write_whole

__all__ = ["Pushed", "push"]

log = logging.getLogger("raft")

# beginnings of the names of files that only the trainer needs, to go on from the policy
_NOT_FOR_OTHERS = (".", "optimizer", "train.json", "trainer", "scheduler", "rng")


@dataclass(frozen=True)
class Pushed:
    """What was uploaded, or would be: `files` are paths on this machine by those in the repository.

    `url` is that of the commit; None where nothing was uploaded.
    """

    repository: str
    iteration: int
    card: Path
    files: dict[str, Path]
    url: str | None


def push(
    run_dir: str | Path,
    to: str,
    *,
    iteration: int | None = None,
    private: bool = False,
    dry_run: bool = False,
) -> Pushed:
    """Upload the policy of a run to the hub in one commit.

    The card is written to `card.md` of the run folder. The hub's token is that of
    `huggingface_hub` (HF_TOKEN, or `hf auth login`).

    Args:
        to: the repository, OWNER/NAME; it is made where it does not exist.
        iteration: whose policy; by default the best by gold, or by the held-out reward.
        dry_run: write the card and name the files, without connecting to the hub.

    Raises InputError for a run without that policy, an invalid name of a repository, and a hub that
    cannot be reached or refuses.
    """
    run = Path(run_dir)
    all_rows = read_numbers(run)
    rows = [row for row in all_rows if "eval/reward_mean" in row or "eval/win_rate" in row]
    best = best_iteration(rows) if rows else 0
    chosen = best if iteration is None else iteration
    trained, idle = chosen, {row.iteration for row in all_rows if row.get("select/kept") == 0}
    while trained in idle:  # whose policy is that of the iteration before
        trained -= 1
    stored = stored_policies(run)
    if (checkpoint := stored.get(trained)) is None:
        raise InputError(run, f"holds no policy of iteration {chosen}", _others(run))
    if to.count("/") != 1 or not all(to.split("/")):
        raise InputError(f"--to {to}", "is no repository", "write OWNER/NAME")
    config = read_config(run, log.warning)
    card = run / "card.md"
    write_whole(card, _card(to, config, rows, chosen))
    files = {
        path.relative_to(checkpoint).as_posix(): path
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and not path.name.startswith(_NOT_FOR_OTHERS)
    }
    files |= {"README.md": card, "raft/metrics.jsonl": run / "metrics.jsonl"}
    if (run / "curves.png").is_file():
        files["raft/curves.png"] = run / "curves.png"
    url = None if dry_run else _upload(to, files, private)
    return Pushed(to, chosen, card, files, url)


def _others(run: Path) -> str:
    kept = [f"{version:03d}" for version in stored_policies(run)]
    return f"use --iteration with one of {', '.join(kept)}" if kept else "train an iteration first"


def _upload(to: str, files: Mapping[str, Path], private: bool) -> str:
    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    adds = [CommitOperationAdd(name, str(path)) for name, path in files.items()]
    try:
        api = HfApi()
        api.create_repo(to, private=private, exist_ok=True)
        commit = api.create_commit(to, adds, commit_message="Policy trained by raft-rlhf")
    except HFValidationError as error:
        raise InputError(f"--to {to}", str(error), "write OWNER/NAME") from error
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError) as error:
        fix = "set HF_TOKEN to one that may write there, or look with --dry-run"
        raise InputError(f"--to {to}", f"the hub refuses ({error})", fix) from error
    return commit.commit_url


def _card(to: str, config: Mapping[str, object], rows: list[Numbers], chosen: int) -> str:
    name, policy, sampling = to.split("/")[1], _of(config, "policy"), _of(config, "sampling")
    base, strategy = policy.get("model"), _of(config, "select").get("strategy", "best_of_k")
    head: dict[str, object] = {"tags": ["rlhf", "raft", "reward-ranked-finetuning"]}
    if isinstance(base, str) and base.count("/") == 1 and not Path(base).exists():
        head["base_model"] = base
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n\n# {name}",
        f"`{base}` after {chosen} iterations of reward-ranked fine-tuning (RAFT) by raft-rlhf: "
        f"K = {sampling.get('k')} responses to each prompt, selected by `{strategy}`.",
        "## Reward\n\n" + _section(config, "reward"),
        "## Held-out curve\n\n![curves](raft/curves.png)\n\n" + _table(rows, chosen),
        "## Data\n\nPrompts to draw from; those held out were never trained on.\n\n"
        + _section(config, "prompts"),
        "## Settings\n\n```yaml\n" + config_text(config) + "```",
    ]
    if config.get("gold"):
        parts.insert(3, "## Gold: measured, never selected by\n\n" + _section(config, "gold"))
    return "\n\n".join(parts) + "\n"


def _of(config: Mapping[str, object], section: str) -> dict[str, object]:
    found = config.get(section)
    return found if is_object(found) else {}


def _section(config: Mapping[str, object], name: str) -> str:
    said = {key: value for key, value in _of(config, name).items() if value not in (None, {}, [])}
    return "```yaml\n" + yaml.safe_dump(said, sort_keys=False, allow_unicode=True) + "```"


_COLUMNS = {
    "eval/reward_mean": "reward", "eval/best_of_k": "best of K", "eval/win_rate": "win rate",
    "eval/gold_mean": "gold", "eval/kl_k1": "KL",
}  # fmt: skip


def _table(rows: list[Numbers], chosen: int) -> str:
    """Return a Markdown table of the evaluations, the pushed one bold, with known intervals."""
    keys = [key for key in _COLUMNS if any(key in row for row in rows)]
    lines = ["| iteration | " + " | ".join(_COLUMNS[key] for key in keys) + " |"]
    lines.append("|" + "---|" * (len(keys) + 1))
    for row in rows:
        number = f"**{row.iteration}**" if row.iteration == chosen else str(row.iteration)
        cells = [_cell(row, key) for key in keys]
        lines.append(f"| {number} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(row: Numbers, key: str) -> str:
    value, half = row.get(key), row.get(f"{key.removesuffix('_mean')}_ci95")
    if value is None:
        return ""
    return f"{value:.3g}" + ("" if half is None else f" ± {half:.2g}")
