"""The parts of a report besides samples: settings, numbers, curves, times."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import yaml

from raft.curves.panels import PANELS, Line, Panel, interval_of
from raft.report.page import (
    Fact,
    FactGroup,
    Headline,
    Histogram,
    HistogramRow,
    PageLine,
    PagePanel,
    PageStage,
    Times,
)
from raft.runs.metrics import Numbers
from rollout.data.jsonl import is_object
from rollout.data.overrides import parse_yaml
from rollout.storage.files import read_json

__all__ = [
    "TIMES",
    "config_text",
    "environment",
    "facts",
    "headline",
    "histogram",
    "judged",
    "panels",
    "read_config",
    "timeline",
]

_SECRET = re.compile(r"(^|_)(api_?key|secret|password|token)$", re.IGNORECASE)
_LOGIN = re.compile(r"(?<=://)[^/@\s]+@")


def read_config(run: Path, on_damage: Callable[[str], None]) -> dict[str, object]:
    """Return the resolved config with passwords masked; {} where it is missing or unreadable."""
    try:
        found = parse_yaml((run / "config.yaml").read_text(encoding="utf-8"), "config.yaml")
    except FileNotFoundError:
        on_damage("config.yaml is missing: settings are not shown")
        return {}
    except (OSError, ValueError):
        on_damage("config.yaml cannot be read: settings are not shown")
        return {}
    if not is_object(found):
        on_damage("config.yaml holds no settings")
        return {}
    return {str(key): _masked(value, str(key)) for key, value in found.items()}


def environment(run: Path, on_damage: Callable[[str], None]) -> dict[str, object]:
    """Return the contents of env.json; {} where it is missing or unreadable."""
    try:
        found = read_json(run / "env.json")
    except FileNotFoundError:
        on_damage("env.json is missing: versions and hardware are not shown")
        return {}
    except (OSError, ValueError, RecursionError):
        on_damage("env.json cannot be read: versions and hardware are not shown")
        return {}
    return found if isinstance(found, dict) else {}


def config_text(config: Mapping[str, object]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True) if config else ""


def judged(config: Mapping[str, object], section: str) -> bool:
    """Return whether a pairwise judge gives this reward, alone or as a part of a combination."""
    return _holds_judge(config.get(section))


def facts(
    config: Mapping[str, object],
    env: Mapping[str, object],
    metrics: list[Numbers],
    stages: list[PageStage],
) -> list[FactGroup]:
    """Return facts on the run in groups; those that are not known are skipped."""
    groups = [
        ("Run", _run(config, env, metrics)),
        ("Responses", _counts(stages)),
        ("Policy", _section(config, "policy")),
        ("Reward", _section(config, "reward")),
        ("Gold", _section(config, "gold")),
        ("Prompts", _section(config, "prompts")),
        ("Sampling", _section(config, "sampling")),
        ("Selection", _section(config, "select")),
        ("Training", _section(config, "train")),
        ("Evaluation", _section(config, "eval")),
        ("Hardware", _hardware(env)),
        ("Versions", _section(env, "packages")),
    ]
    return [FactGroup(title=title, rows=rows) for title, rows in groups if rows]


def headline(metrics: list[Numbers], planned: object) -> list[Headline]:
    """Return the numbers for the top of the page: the last evaluation compared with the first."""
    found: list[Headline] = []
    for label, key in (
        ("Held-out reward", "eval/reward"),
        ("Gold reward", "eval/gold"),
    ):
        rows = [row for row in metrics if row.get(f"{key}_mean") is not None]
        if rows:
            first, last = rows[0], rows[-1]
            note = f"from {_with_interval(first, f'{key}_mean', f'{key}_ci95')} at the start"
            found.append(
                {
                    "label": label,
                    "value": _with_interval(last, f"{key}_mean", f"{key}_ci95"),
                    "note": note if len(rows) > 1 else "before training",
                }
            )
    rows = [row for row in metrics if row.get("eval/win_rate") is not None]
    if rows and rows[-1].iteration > 0:
        value = _with_interval(rows[-1], "eval/win_rate", "eval/win_rate_ci95")
        found.append({"label": "Wins", "value": value, "note": "against the starting policy"})
    rows = [row for row in metrics if row.get("eval/kl_k1") is not None]
    if rows and rows[-1].iteration > 0:
        value = _with_interval(rows[-1], "eval/kl_k1", "eval/kl_k1_ci95")
        found.append({"label": "KL", "value": value, "note": "nats, to the starting policy"})
    done = max((row.iteration for row in metrics), default=0)
    of = f" of {planned}" if isinstance(planned, int) else ""
    found.append({"label": "Iterations", "value": f"{done}{of}", "note": "after the start"})
    if seconds := _wall_seconds(metrics):
        found.append({"label": "Time", "value": _duration(seconds), "note": "in iterations"})
    return found


def _run(
    config: Mapping[str, object], env: Mapping[str, object], metrics: list[Numbers]
) -> list[Fact]:
    rows = {key: config[key] for key in ("run_dir", "seed", "iterations") if key in config}
    rows["commit"] = env.get("git")
    if seconds := _wall_seconds(metrics):
        rows["time in iterations"] = _duration(seconds)
    if seconds := sum(row.get("time/start") or 0.0 for row in metrics):
        rows["start-up of workers"] = f"{_duration(seconds)}, not counted above"
    return _pairs(rows)


def _counts(stages: list[PageStage]) -> list[Fact]:
    rows: list[Fact] = []
    for phase, label in (("rollouts", "drawn for training"), ("eval", "drawn for evaluation")):
        of_phase = [stage for stage in stages if stage["phase"] == phase]
        if of_phase:
            samples = sum(stage["samples"] for stage in of_phase)
            tokens = sum(stage["tokens"] for stage in of_phase)
            text = f"{samples:,} responses to {sum(s['prompts'] for s in of_phase):,} prompts"
            rows.append((label, f"{text}, {tokens:,} tokens" if tokens else text))
    own = [stage["chosen"] for stage in stages if stage["phase"] == "rollouts"]
    if own:  # the phases of runs that are compared have other names
        rows.append(("trained on", f"{sum(own):,} responses"))
    return rows


def _hardware(env: Mapping[str, object]) -> list[Fact]:
    gpus = env.get("gpus")
    rows = {
        "GPUs": ", ".join(map(str, gpus)) or "none" if isinstance(gpus, list) else None,
        "CPU cores": env.get("cpu_cores"),
        "memory": f"{env['memory_gib']} GiB" if "memory_gib" in env else None,
        "platform": env.get("platform"),
        "Python": env.get("python"),
    }
    return _pairs(rows)


def _section(values: Mapping[str, object], name: str) -> list[Fact]:
    section = values.get(name)
    return _pairs(section) if isinstance(section, dict) else []


def _pairs(values: Mapping[str, object]) -> list[Fact]:
    """Return the values that are set, as text; None and empty values are not set."""
    return [
        (str(key), value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in ((key, _plain(value)) for key, value in values.items())
        if value not in (None, "", [], {})
    ]


def _plain(value: object) -> object:
    """Return a value without None and empty entries, and with dates and other types as text."""
    if isinstance(value, dict):
        plain = {str(key): _plain(item) for key, item in value.items()}
        return {key: item for key, item in plain.items() if item not in (None, "", [], {})}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | None) else str(value)


def _masked(value: object, key: str = "") -> object:
    """Return the value with passwords masked, since reports are passed on."""
    if value is not None and _SECRET.search(key):
        return "***"
    if isinstance(value, dict):
        return {name: _masked(item, str(name)) for name, item in value.items()}
    if isinstance(value, list):
        return [_masked(item) for item in value]
    return _LOGIN.sub("***@", value) if isinstance(value, str) else value


def _holds_judge(section: object) -> bool:
    if not isinstance(section, dict):
        return False
    members = section.get("members")
    return section.get("kind") == "pairwise" or (
        isinstance(members, list) and any(map(_holds_judge, members))
    )


def _with_interval(row: Numbers, mean: str, half_width: str) -> str:
    """Return "mean ± half width", rounded to two digits of the latter: more would be noise.

    Without a usable half width it is the mean in three digits.
    """
    value, half = row.get(mean) or 0.0, row.get(half_width)
    if not half or not 1e-6 < half < 1e6:
        return f"{value:.3g}".replace("-", "−")
    decimals = max(0, 1 - math.floor(math.log10(half)))
    return f"{value:.{decimals}f} ± {half:.{decimals}f}".replace("-", "−")


def _wall_seconds(metrics: list[Numbers]) -> float:
    return sum(row.get("time/iteration") or 0.0 for row in metrics)


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.1f} s"
    minutes, hours = seconds / 60, seconds / 3600
    return f"{minutes:.0f} min" if minutes < 120 else f"{hours:.1f} h"


_DRAWN = (
    "reward", "gold", "win_rate", "kl", "length", "diversity", "perplexity",
    "early_rejection", "ratio", "pairs", "update_kl", "entropy", "grad_norm",
)  # fmt: skip
_FURTHER = (
    Panel(
        "Responses cut at the limit",
        "share",
        (
            Line("eval/truncated_share", "held-out"),
            Line("rollout/truncated_share", "training batch", width=0.5),
        ),
    ),
    Panel("Training loss", "per token or pair", (Line("train/loss", "loss"),)),
)

TIMES = ("generate", "score", "select", "train", "sync", "eval")


def panels(metrics: list[Numbers]) -> list[PagePanel]:
    """Return the panels of `raft curves`, with the lines that the run has numbers for."""
    known = {key for row in metrics for key in row.values}
    found: list[PagePanel] = []
    for panel in (*(PANELS[name] for name in _DRAWN), *_FURTHER):
        lines = [_line(line, known) for line in panel.lines if line.metric in known]
        if lines:
            found.append(
                {
                    "title": panel.title,
                    "unit": panel.y_label,
                    "level": panel.level,
                    "lines": lines,
                }
            )
    return found


def _line(line: Line, known: set[str]) -> PageLine:
    interval = interval_of(line.metric)
    return {
        "key": line.metric,
        "label": line.label,
        "interval": interval if interval in known else None,
        "dash": line.style,
        "width": line.width,
    }


_BINS = 24


def histogram(scores: Mapping[int, list[float]], measure: str) -> Histogram | None:
    """Return the distribution of each iteration's held-out scores, in bins that all share.

    None where there are no scores, or all are equal.
    """
    every = [one for values in scores.values() for one in values]
    if not every or min(every) == max(every):
        return None
    low, high = min(every), max(every)
    rows: list[HistogramRow] = []
    for iteration, values in scores.items():
        counts = [0] * _BINS
        for value in values:
            counts[min(_BINS - 1, int(_BINS * ((value - low) / (high - low))))] += 1
        if values:
            mean = math.fsum(values) / len(values)
            rows.append(HistogramRow(iteration=iteration, counts=counts, mean=mean))
    return Histogram(low=low, high=high, measure=measure, rows=rows)


def timeline(metrics: list[Numbers]) -> list[Times]:
    """Return the seconds per iteration and stage; `other` are those that belong to no stage."""
    found: list[Times] = []
    for row in metrics:
        seconds = {
            name: value
            for name in TIMES
            if (value := row.get(f"time/{name}")) is not None and value >= 0
        }
        total = row.get("time/iteration")
        if not seconds and total is None:
            continue
        spent = sum(seconds.values())
        # stages of a run that was killed and continued are not all in the last attempt's total
        whole = max(spent, total or 0.0)
        found.append(
            {"iteration": row.iteration, "seconds": {**seconds, "other": whole - spent},
             "total": whole}
        )  # fmt: skip
    return found
