"""Write the report on a run: one HTML file, which names missing and damaged parts of the run and
shows the rest."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path

from raft import __version__
from raft.report import compare, highlights, page, problems, summary
from raft.report.page import Blocks, Histogram, PageData, PageStage, SampleEntry, SampleList
from raft.report.problems import Notices
from raft.report.samples import Index, Stage, embed, find_stages
from raft.runs.metrics import controls_of
from rollout.errors import InputError
from rollout.progress import Progress
from rollout.storage.files import whole_file, writing

__all__ = ["write_report"]

log = logging.getLogger("raft")

# bytes above which a warning is logged: browsers open ten times as much, but mail and chat do not
_LARGE = 200 << 20
_SUFFIXES = (".html", ".htm")
_OF_A_RUN = ("metrics.jsonl", "config.yaml", "iterations")


def write_report(
    runs: str | Path | Sequence[str | Path],
    out: str | Path | None = None,
    *,
    prompts: int | None = None,
) -> Path:
    """Write the report on a run, finished or not, and return its path.

    Rows stream through: memory holds a block of them, and the scores of the evaluations.

    Args:
        runs: a run folder, parts of which may be missing or damaged; of several, the page is about
            the first, and shows curves and samples of the others, and of controls, beside its own.
        out: an `.html` file, by default `report.html` in the run folder; whole or not at all.
        prompts: the most prompts of each file that the page shows; all by default.

    Raises InputError: no such folder, nothing of a run in it, or `out` cannot be written.
    """
    run, *rest = map(Path, [runs] if isinstance(runs, str | Path) else runs)
    rest += controls_of([run, *rest])
    out = run / "report.html" if out is None else Path(out)
    _check([run, *rest], out, prompts)
    config = summary.read_config(run, (notices := Notices()).add)
    metrics = problems.read_valid_metrics(run, notices.add)
    iterations = problems.iteration_numbers(run, metrics)
    fired, stopped = problems.read_guards(run, notices.add)
    for gap in problems.find_gaps(run, iterations, metrics, config, stopped is not None):
        notices.add(gap)
    title = run.resolve().name
    others = compare.read_others(rest, title, notices.add)
    with writing(out, "choose another --out"), whole_file(out) as file:
        file.write(page.beginning(title))
        stages, found, histogram = _samples(
            find_stages(run, iterations), others, Blocks(file), notices, prompts, config
        )
        env = summary.environment(run, notices.add)
        data = PageData(
            title=title,
            made=f"raft {__version__}",
            changed=_last_change(run),
            headline=summary.headline(metrics, config.get("iterations"))
            + compare.headlines(others),
            facts=compare.differences(title, config, others)
            + summary.facts(config, env, metrics, stages),
            config=summary.config_text(config),
            metrics=compare.merged(metrics, others),
            panels=compare.panels(metrics, others),
            stageNames=[*summary.TIMES, "other"],
            times=summary.timeline(metrics),
            guards=fired,
            stopped=stopped,
            stages=stages,
            phases={key: name for other in others for key, name in other.phases().items()},
            histogram=histogram,
            lists=found,
            notices=notices.texts,
        )
        file.write(page.end(data))
    _log_size(out, stages)
    return out


def _check(runs: Sequence[Path], out: Path, prompts: int | None) -> None:
    for run in runs:
        if not run.is_dir():
            raise InputError(run, "no such run folder", "name the run_dir of a run")
        if not any((run / name).exists() for name in _OF_A_RUN):
            fix = "name a folder that `raft run` has begun"
            raise InputError(run, "holds nothing of a run", fix)
    if prompts is not None and prompts < 1:
        raise InputError(f"--max-prompts {prompts}", "is less than 1", "give 1 or more")
    if out.suffix.lower() not in _SUFFIXES:
        raise InputError(out, "is not an HTML file", "end the name in .html")
    if out.is_dir():
        raise InputError(out, "is a folder", "name a file in it")
    with writing(out, "choose another --out"):
        out.parent.mkdir(parents=True, exist_ok=True)


def _samples(
    stages: list[Stage],
    others: Sequence[compare.Other],
    blocks: Blocks,
    notices: Notices,
    limit: int | None,
    config: Mapping[str, object],
) -> tuple[list[PageStage], list[SampleList], Histogram | None]:
    """Write the blocks of samples. Return the page's data on each stage, the lists of samples, and
    the histogram of held-out scores."""
    if not stages:
        notices.add("there are no samples yet")
    evals = [at for at, stage in enumerate(stages) if stage.phase == "eval"]
    first, last = (evals[0], evals[-1]) if evals else (None, len(stages) - 1)
    kept: dict[int, Index] = {}
    known: list[PageStage] = []
    scores: dict[int, list[float]] = {}
    every = [(stage, config) for stage in stages]
    every += [(stage, other.config) for other in others for stage in other.stages]
    with Progress("report", sum(_lines(stage) for stage, _ in every)) as progress:
        for at, (stage, settings) in enumerate(every):
            entry, index = embed(stage, blocks, notices.add, limit=limit, advance=progress.advance)
            measure, comparable = _meaning(stage, settings)
            known.append(PageStage(**entry, measure=measure, comparable=comparable))
            if at in (first, last):
                kept[at] = index
            if at in evals:
                rewards_PK = index.scores.get("reward", [])
                scores[stage.iteration] = [
                    one for row in rewards_PK for one in row if one is not None
                ]
    if not stages:
        return known, [], None
    found = _lists(kept, first, last, known[last])
    highlights.with_excerpts(found, stages[last], lambda: None)
    return known, found, summary.histogram(scores, known[last]["measure"])


def _lists(
    kept: dict[int, Index], first: int | None, last: int, stage: PageStage
) -> list[SampleList]:
    """Return lists of samples to look at first, of the last evaluation, else the last rollouts.

    [] where the scores of that stage cannot be compared across prompts.
    """
    if not stage["comparable"]:
        return []
    where = f"iteration {stage['iteration']}"
    index = kept[last]
    best, worst = highlights.extremes(index, last)
    found: list[tuple[str, str, list[SampleEntry]]] = [
        ("Best", f"highest {stage['measure']}, {where}", best),
        ("Worst", f"lowest {stage['measure']}, {where}", worst),
    ]
    if first is not None and first != last:
        risen, fallen = highlights.changed(kept[first], index, last)
        found += [
            ("Risen most", "mean of a held-out prompt, first against last evaluation", risen),
            ("Fallen most", "mean of a held-out prompt, first against last evaluation", fallen),
        ]
    odds = highlights.disagreeing(index, last)
    found.append(
        (
            "Proxy against gold",
            f"furthest apart in standard deviations, proxy above gold first, {where}",
            odds,
        )
    )
    return [
        SampleList(title=title, what=what, entries=entries)
        for title, what, entries in found
        if entries
    ]


def _meaning(stage: Stage, config: Mapping[str, object]) -> tuple[str, bool]:
    """Return what the scores of a stage are, and whether they can be compared across prompts.

    A judge's points in a tournament compare the responses to one prompt. On held-out prompts its
    score is the probability that a response wins against the starting policy's.
    """
    section = config.get("reward")
    if not summary.judged(config, "reward") or not isinstance(section, dict):
        return "reward", True
    if stage.phase == "rollouts":
        return "points in its tournament", False
    # in a combination a judge gives one term, and the sum is not a probability
    alone = section.get("kind") == "pairwise"
    return "chance to win" if alone else "reward", True


def _lines(stage: Stage) -> int:
    try:
        with open(stage.path, "rb") as file:
            return sum(1 for _ in file)
    except OSError:  # it is named where its rows are read
        return 0


def _last_change(run: Path) -> str | None:
    path = run / "metrics.jsonl"
    if not path.exists():
        return None
    return datetime.fromtimestamp(path.stat().st_mtime, UTC).strftime("%Y-%m-%d %H:%M UTC")


def _log_size(out: Path, stages: list[PageStage]) -> None:
    size = out.stat().st_size
    log.info(
        "%s: %.1f MB, %d samples",
        out,
        size / 1e6,
        sum(stage["samples"] for stage in stages),
    )
    if size > _LARGE:
        log.warning(
            "%s is large (%.0f MB); --max-prompts N takes N prompts of each file", out, size / 1e6
        )
