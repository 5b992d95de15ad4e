"""A plan as a table, and as JSON."""

from __future__ import annotations

from collections.abc import Sequence

from raft.plan.memory import GIB, PHASES, total
from raft.plan.plan import ASSUMED_MFU, PEAK_FLOPS, Plan

__all__ = ["plan_json", "plan_text"]

_PARTS = ("weights", "gradients", "optimizer", "activations", "KV cache", "other")


def plan_text(plan: Plan) -> str:
    """Return tables of GiB for each process at its fullest and each GPU in each phase.

    CPU memory, disk, tokens and estimated hours follow.
    """
    lines = [plan.summary, ""]
    rows = [["process", "GPU", *_PARTS, "sum", "CPU"]]
    for process in plan.processes:
        parts = process.peak()
        cells = [_cell(parts[name].bytes if name in parts else 0) for name in _PARTS]
        gpus = ",".join(map(str, process.gpus)) or "–"
        whole = total(parts) if process.gpus else 0
        rows.append([process.name, gpus, *cells, _cell(whole), _cell(process.host)])
    lines += ["GiB, each process at its fullest", *_table(rows), ""]
    uses = plan.uses()
    phases = [phase for phase in PHASES if any(phase in one.phases for one in plan.processes)]
    if uses:
        rows = [["GPU", *phases, "of"]]
        for gpu in sorted({use.gpu for use in uses}):
            held = {use.phase: use.bytes for use in uses if use.gpu == gpu}
            rows.append([str(gpu), *(_cell(held[one]) for one in phases), _cell(plan.memory)])
        lines += ["GiB on each GPU in each phase", *_table(rows), ""]
    lines.append(f"CPU memory: up to {plan.host() / GIB:,.1f} GiB, of all processes")
    disk = plan.disk
    lines += [
        f"disk: a checkpoint {disk.checkpoint / 1e9:,.1f} GB, up to {disk.at_once} at once; "
        f"samples up to {disk.samples / 1e9:,.1f} GB; {disk.most / 1e9:,.0f} GB in all, "
        f"{disk.free / 1e9:,.0f} free",
        "",
        "tokens, at most",
    ]
    rows = [["", f"each {plan.step}", "in all"]]
    rows += [
        [one.kind, f"{one.each:,}", "" if one.whole is None else f"{one.whole:,}"]
        for one in plan.tokens
    ]
    lines += _table(rows)
    if plan.hours:
        hours = ", ".join(f"{kind} {hours:.2g}" for kind, hours in plan.hours.items())
        used = ", ".join(f"{kind} {100 * ASSUMED_MFU[kind]:g} %" for kind in plan.hours)
        lines += [
            "",
            f"hours in all, at most: {hours}",
            f"  an estimate, not measured: each GPU has {PEAK_FLOPS / 1e12:g} TFLOP/s, of which "
            f"{used} are used",
        ]
    fits = [] if plan.problem() else ["it fits"]
    return "\n".join([*lines, "", *plan.notes(), *fits])


def _cell(size: int) -> str:
    return f"{size / GIB:.1f}" if size >= GIB / 20 else "–"


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return a table's lines; columns are as wide as their widest cell, numbers flush right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if at == 0 else cell.rjust(width)
            for at, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def plan_json(plan: Plan) -> dict[str, object]:
    """Return the plan as a JSON object, with memory and disk in bytes."""
    problem = plan.problem()
    return {
        "summary": plan.summary,
        "gpus": plan.gpus,
        "gpu_memory": plan.memory,
        "fits": problem is None,
        "problem": None if problem is None else f"{problem[0]}: {problem[1]}",
        "processes": [
            {
                "name": process.name,
                "gpus": list(process.gpus),
                "cpu_memory": process.host,
                "phases": {
                    phase: {name: part.bytes for name, part in parts.items()}
                    for phase, parts in process.phases.items()
                },
            }
            for process in plan.processes
        ],
        "gpu_use": [
            {"gpu": use.gpu, "phase": use.phase, "bytes": use.bytes, "least": use.least}
            for use in plan.uses()
        ],
        "disk": {
            "checkpoint": plan.disk.checkpoint,
            "checkpoints_at_once": plan.disk.at_once,
            "samples": plan.disk.samples,
            "most": plan.disk.most,
            "free": plan.disk.free,
        },
        "tokens": [
            {"kind": one.kind, f"each_{plan.step}": one.each, "in_all": one.whole}
            for one in plan.tokens
        ],
        "hours_estimated": plan.hours,
        "notes": plan.notes(),
    }
