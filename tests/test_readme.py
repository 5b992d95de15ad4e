"""The README says what is there: its commands parse, its files exist, its keys are keys."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
import yaml

from raft.cli.main import parser
from raft.config.load import known_keys

ROOT = Path(__file__).resolve().parents[1]
# what does not fit the README's one screen
DOCS = [(ROOT / f"docs/{name}.md").read_text() for name in ("commands", "promises", "gpus")]
README = "\n".join([(ROOT / "README.md").read_text(), *DOCS])
REWARDS = (ROOT / "rewards/README.md").read_text()
FENCES = re.findall(r"```(?:\w*)\n(.*?)```", README, re.S)


def _commands() -> list[str]:
    fences = re.findall(r"```(?:\w*)\n(.*?)```", REWARDS, re.S)
    lines = "\n".join([*FENCES, *fences]).splitlines()
    fenced = [line.split("#")[0].strip() for line in lines if line.startswith("raft ")]
    said = re.findall(r"`(raft [\w-]+ [^`]*)`", README + REWARDS)
    return [*fenced, *(" ".join(one.split()) for one in said)]


@pytest.mark.parametrize("command", _commands())
def test_every_command_of_the_readmes_parses_and_is_of_today(command):
    found = parser().parse_args(shlex.split(command)[1:])
    assert not hasattr(found, "old_names")


@pytest.mark.parametrize("name", sorted(set(re.findall(r"configs/\w[\w.]*\.yaml", README))))
def test_every_config_of_the_readme_exists(name):
    assert (ROOT / name).is_file()


def test_every_place_of_the_tree_exists():
    tree = next(fence for fence in FENCES if fence.startswith("raft/"))
    folder, missing = "", []
    for line in tree.splitlines():
        top = re.match(r"(\w+)/", line)
        folder = top[1] if top else folder
        names = re.findall(r"\b[\w/]+\.py\b", line) if not top else []
        names += re.findall(r"(?<![\w/`])\w+/(?![\w.])", line) if not top else []
        missing += [name for name in names if not (ROOT / folder / name).exists()]
    assert not missing


def test_every_folder_is_in_the_tree():
    tree = next(fence for fence in FENCES if fence.startswith("raft/"))
    folders = [path for top in ("raft", "rewards", "rollout") for path in (ROOT / top).iterdir()]
    packages = {path.name for path in folders if (path / "__init__.py").exists()}
    assert {name for name in packages if f"{name}/" not in tree} == set()


@pytest.mark.parametrize("text", [README, REWARDS], ids=["README", "rewards/README"])
def test_every_named_module_exists(text):
    named = set(re.findall(r"`((?:raft|rewards|rollout|experiments)/[\w/]+\.py)`", text))
    assert {name for name in named if not (ROOT / name).is_file()} == set()


def test_every_key_of_the_readme_is_a_key():
    known = set(known_keys())
    said = set(re.findall(r"`((?:cluster|train|policy|sampling|eval|select)\.\w+)", README))
    sections = re.findall(r"`((?:cluster|train|policy): \{.*?\})`", README)
    for section in sections:
        for name, keys in yaml.safe_load(section).items():
            said |= {f"{name}.{key}" for key in keys}
    assert said and said <= known, said - known
