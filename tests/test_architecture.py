"""Who may import whom, what importing costs, and how long files and functions may grow."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = ("raft", "rollout", "rewards", "experiments")
HEAVY = ("torch", "transformers", "vllm", "ray", "trl", "datasets", "accelerate", "peft")
FILES = sorted(file for name in OURS for file in (ROOT / name).rglob("*.py"))

# folder -> (what of ours it may import, except for itself)
MAY_IMPORT = {
    "raft": ("rewards", "rollout"),
    "rewards": ("rollout.types",),
    "rollout": (),
    "experiments": ("raft", "rewards", "rollout"),
}
# one place per use; a test that finds a new place asks for a reason, not for another line here
ONLY_IN = {
    "ray": {"raft/cluster.py"},
    # sampling from policies, and scoring by reward models: neither package may know the other's
    "vllm": {"rollout/vllm_engine.py", "rewards/vllm_engines.py"},
    "trl": {"raft/sft.py"},
}
LONGEST_FILE = 350
LONGEST_FUNCTION = 60


def relative(file: Path) -> str:
    return str(file.relative_to(ROOT))


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imports(file: Path) -> Iterator[str]:
    """Every module that a file imports, anywhere in it, by its full name."""
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{relative(file)}: relative imports hide who imports whom"
            yield node.module or ""
        elif isinstance(node, ast.Call) and _is_import_call(node):
            argument = node.args[0]
            if isinstance(argument, ast.Constant):
                yield str(argument.value)


def _is_import_call(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("import_module", "__import__") and bool(node.args)


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(package + ".")


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_who_knows_whom(file: Path) -> None:
    home = file.relative_to(ROOT).parts[0]
    allowed = (home, *MAY_IMPORT[home])
    for module in imports(file):
        if module.split(".")[0] in OURS:
            assert any(within(module, one) for one in allowed), f"{home} must not know {module}"


@pytest.mark.parametrize("library", sorted(ONLY_IN))
def test_one_place_per_library(library: str) -> None:
    users = {
        relative(file)
        for file in FILES
        if not relative(file).startswith("experiments/")
        and any(within(module, library) for module in imports(file))
    }
    assert users <= ONLY_IN[library]


def test_the_checks_see_imports_everywhere(tmp_path: Path) -> None:
    # in functions, under conditions, by name; a checker that sees nothing would pass everything
    (tmp_path / "a.py").write_text(
        "import ray.util\nif 1:\n    from vllm import LLM\n"
        "def f():\n    import trl.trainer as t\n    import_module('raft.loop')\n"
    )
    assert sorted(imports(tmp_path / "a.py")) == ["raft.loop", "ray.util", "trl.trainer", "vllm"]
    assert len(FILES) > 40


@pytest.mark.parametrize("statement", ["import raft, rewards, rollout", "import raft.cli"])
def test_importing_us_loads_nothing_heavy(statement: str) -> None:
    unwanted = (*HEAVY, "numpy", "pydantic")
    code = f"import sys\n{statement}\nprint([m for m in {unwanted!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


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


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_files_and_functions_stay_readable(file: Path) -> None:
    assert len(file.read_text(encoding="utf-8").splitlines()) <= LONGEST_FILE
    for node in ast.walk(parsed(file)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or 0) - node.lineno + 1
            assert lines <= LONGEST_FUNCTION, f"{node.name}: {lines} lines"
