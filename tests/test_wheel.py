"""The wheel holds what an installation needs, and works without the repository."""

from __future__ import annotations

import shutil
import subprocess
import sys
import sysconfig
import venv
import zipfile
from pathlib import Path

import pytest

import raft

ROOT = Path(__file__).parents[1]
PACKAGES = ("raft", "rewards", "rollout")
FILES = ("pyproject.toml", "README.md", "LICENSE")


def test_the_image_is_made_of_what_the_wheel_is() -> None:
    lines = (ROOT / "requirements" / "gpu.Dockerfile").read_text().splitlines()
    copied = [one for line in lines if line.startswith("COPY ") for one in line.split()[1:-1]]
    assert {*copied} == {*PACKAGES, *FILES, "requirements/gpu.txt"}
    assert all((ROOT / one).exists() for one in copied)


@pytest.mark.slow
def test_the_wheel_works_in_an_environment_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.mkdir()
    for name in PACKAGES:
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, source / name, ignore=ignored)
    for name in FILES:
        shutil.copy(ROOT / name, source)
    build = ["wheel", "--quiet", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path]
    subprocess.run([sys.executable, "-m", "pip", *map(str, build), source], check=True, timeout=300)
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name == f"raft_rlhf-{raft.__version__}-py3-none-any.whl"
    held = zipfile.ZipFile(wheel).namelist()
    assert {"raft/py.typed", "rewards/py.typed", "rollout/py.typed"} <= {*held}
    assert {f"raft/report/page/{one.name}" for one in (ROOT / "raft/report/page").iterdir()} <= {
        *held
    }
    assert not any(name.startswith(("tests", "experiments")) for name in held)
    place = tmp_path / "environment"
    venv.create(place, with_pip=False)
    (packages,) = place.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(packages)
    # its dependencies are those of this environment, in which pth files name no repository
    (packages / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    code = (
        "import raft\n"
        "print(raft.__file__)\n"
        "print(raft.score([{'prompt': 'a', 'response': 'b c'}], 'function:length').mean)\n"
    )
    said = subprocess.run(
        [place / "bin/python", "-c", code], capture_output=True, text=True, cwd=tmp_path,
        env={"PATH": "/usr/bin:/bin"}, timeout=120,
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    home, mean = said.stdout.split()
    assert Path(home).is_relative_to(packages) and float(mean) == 2
