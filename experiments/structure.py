"""Figures of the code's structure: how many places a reader has to know, and how large they are.

python -m experiments.structure [--json]

The closure is what `raft/loop.py` imports when it is imported: not what functions import later.
"""

from __future__ import annotations

import argparse
import ast
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("raft", "rewards", "rollout")
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def python_files(*folders: str) -> list[Path]:
    return sorted(file for name in folders for file in (ROOT / name).rglob("*.py"))


def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), str(file))


def imported_names(tree: ast.AST) -> Iterator[str]:
    """Yield the full name of every module, and of every name of one, that a tree imports."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if called in ("import_module", "__import__"):
                yield str(node.args[0].value)


def closure(start: str) -> set[Path]:
    """Return the packages' files that importing `start` loads, without `__init__` and itself."""
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        file = _file_of(waiting.pop())
        if file is None or file in found:
            continue
        found.add(file)
        tree = parsed(file)
        for node in tree.body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                waiting += imported_names(node)
    return {file for file in found if file.name != "__init__.py"} - {_file_of(start)}


def _file_of(module: str) -> Path | None:
    if module.split(".")[0] not in PACKAGES:
        return None
    path = ROOT.joinpath(*module.split("."))
    return next((f for f in (path.with_suffix(".py"), path / "__init__.py") if f.is_file()), None)


def measure() -> dict[str, int | float]:
    """Return every figure by its name; lines of files include blank ones and comments."""
    files = python_files(*PACKAGES)
    modules = [file for file in files if file.name != "__init__.py"]
    trees = {file: parsed(file) for file in files}
    texts = [file.read_text(encoding="utf-8") for file in files]
    importers = _importers(trees)
    loop = closure("raft.loop")
    classes = [n for file in loop for n in ast.walk(trees[file]) if isinstance(n, ast.ClassDef)]
    functions = sorted(
        (node.end_lineno or 0) - node.lineno + 1
        for tree in trees.values()
        for node in ast.walk(tree)
        if isinstance(node, _FUNCTIONS)
    )
    sizes = sorted(_lines(file) for file in modules)
    return {
        "modules": len(modules),
        "modules with one importer": sum(importers.get(file, 0) == 1 for file in modules),
        "modules under 50 lines": sum(size < 50 for size in sizes),
        "closure of raft/loop.py: modules": len(loop),
        "closure of raft/loop.py: classes": len(classes),
        "lines of raft/loop.py": _lines(ROOT / "raft/loop.py"),
        **{f"loose files in {name}/": _loose(name) for name in PACKAGES},
        "dict[str, Any]": sum(text.count("dict[str, Any]") for text in texts),
        "Any": sum(len(re.findall(r"\bAny\b", text)) for text in texts),
        "lines: packages": sum(map(_lines, files)),
        "lines: experiments": sum(map(_lines, python_files("experiments"))),
        "lines: tests": sum(map(_lines, python_files("tests"))),
        "file lines: median": statistics.median(sizes),
        "file lines: p90": sizes[int(0.9 * len(sizes))],
        "file lines: max": sizes[-1],
        "function lines: median": statistics.median(functions),
        "function lines: p90": functions[int(0.9 * len(functions))],
        "function lines: max": functions[-1],
    }


def _importers(trees: dict[Path, ast.Module]) -> dict[Path, int]:
    """Return, for each file of the packages, how many of their other files import it."""
    counts: dict[Path, int] = {}
    for file, tree in trees.items():
        for target in {_file_of(name) for name in imported_names(tree)} - {None, file}:
            assert target is not None
            counts[target] = counts.get(target, 0) + 1
    return counts


def _loose(name: str) -> int:
    return sum(file.name != "__init__.py" for file in (ROOT / name).glob("*.py"))


def _lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def main() -> None:
    options = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    options.add_argument("--json", action="store_true", help="print the figures as JSON")
    figures = measure()
    if options.parse_args().json:
        print(json.dumps(figures, indent=1))
        return
    width = max(map(len, figures))
    for name, value in figures.items():
        print(f"{name:<{width}}  {value:>8,g}")


if __name__ == "__main__":
    main()
