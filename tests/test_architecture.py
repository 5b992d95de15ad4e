"""Who may import whom, what importing costs, and how long files and functions may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from experiments.structure import ROOT, closure, imported_names, parsed, python_files

OURS = ("raft", "rollout", "rewards", "experiments")
HEAVY = ("torch", "transformers", "vllm", "ray", "trl", "datasets", "accelerate", "peft")
FILES = python_files(*OURS)

# folder -> what of ours it may import, except for itself
MAY_IMPORT = {
    "raft": ("rewards", "rollout"),
    # everything about prompts and responses, but nothing that draws them
    "rewards": tuple(
        f"rollout.{part}"
        for part in ("types", "errors", "seeds", "progress", "data", "storage", "text")
    ),
    "rollout": (),
    "experiments": ("raft", "rewards", "rollout"),
}
# one place per use; a test that finds a new place asks for a reason, not for another line here
ONLY_IN = {
    "ray": tuple(f"raft/workers/ray_{name}.py" for name in ("cluster", "executor", "start")),
    # sampling from policies, and scoring by reward models: neither package may know the other's
    "vllm": (
        "rollout/engines/vllm.py",
        "rollout/engines/vllm_transfer.py",
        "rewards/inference/vllm.py",
    ),
    "trl": ("raft/updates/",),
}
LONGEST_FILE = 350
LONGEST_FUNCTION = 60


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


def arrows_up(file: Path) -> list[str]:
    """What a file imports of ours and must not."""
    home = file.relative_to(ROOT).parts[0]
    allowed = (home, *MAY_IMPORT[home])
    modules = {
        node.module or ""
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.ImportFrom) and node.module not in OURS
    } | set(imported_names(parsed(file))) - set(OURS)
    return [
        f"{relative(file)} must not know {module}"
        for module in sorted(modules)
        if module.split(".")[0] in OURS and not any(within(module, one) for one in allowed)
    ]


@pytest.mark.slow
def test_who_knows_whom() -> None:
    assert [line for file in FILES for line in arrows_up(file)] == []


@pytest.mark.slow
def test_one_place_per_library() -> None:
    strangers = [
        f"{relative(file)} imports {library}"
        for library, places in ONLY_IN.items()
        for file in python_files("raft", "rewards", "rollout")
        if any(within(module, library) for module in imported_names(parsed(file)))
        and not relative(file).startswith(places)
    ]
    assert strangers == []


def test_the_checks_see_imports_everywhere(tmp_path: Path) -> None:
    # in functions, under conditions, by name; a checker that sees nothing would pass everything
    (tmp_path / "a.py").write_text(
        "import ray.util\nif 1:\n    from vllm import LLM\n"
        "def f():\n    import trl.trainer as t\n    import_module('raft.loop')\n"
    )
    seen = set(imported_names(parsed(tmp_path / "a.py")))
    assert seen == {"raft.loop", "ray.util", "trl.trainer", "vllm", "vllm.LLM"}
    assert len(FILES) > 40
    assert ROOT / "raft/selection/rules.py" in closure("raft.selection.rows")


@pytest.mark.parametrize("statement", ["import raft, rewards, rollout", "import raft.cli"])
def test_importing_us_loads_nothing_heavy(statement: str) -> None:
    unwanted = (*HEAVY, "numpy", "pydantic", "scipy")
    code = f"import sys\n{statement}\nprint([m for m in {unwanted!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_an_inline_toy_run_needs_no_torch(tmp_path: Path) -> None:
    import toy_runs

    file = toy_runs.config_file(tmp_path, iterations=1)
    code = (
        f"import sys\nfrom raft import load_config, run\nrun(load_config({str(file)!r}))\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


@pytest.mark.slow
def test_files_and_functions_stay_readable() -> None:
    long = [relative(file) for file in FILES if _lines(file) > LONGEST_FILE]
    long += [
        f"{relative(file)}: {node.name}"
        for file in FILES
        for node in ast.walk(parsed(file))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (node.end_lineno or 0) - node.lineno + 1 > LONGEST_FUNCTION
    ]
    assert long == []


def _lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())
