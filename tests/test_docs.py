"""The documents name tests and files that exist, and what they say to type works.

Commands run one after the other in one folder, over a toy policy and in one process; what needs a
GPU or the hub is read by the command's own parser.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from doc_fences import ONLY_CHECKED, REWARD, ROOT, Fence, fences, furnish

from raft.cli.main import main, parser
from raft.config.load import is_training, known_keys, make_config
from raft.config.train_reward import make_train_config

PAGES = sorted((ROOT / "docs").glob("*.md"))
TEXTS = {page.name: page.read_text(encoding="utf-8") for page in PAGES}
RUN = [page for page in PAGES if any(fence.language for fence in fences(page))]
NAMED = [
    (page, *found)
    for page, text in TEXTS.items()
    for found in re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", text)
]
FILES = sorted(
    {
        file
        for text in TEXTS.values()
        for file in re.findall(
            r"`((?:tests|raft|rewards|rollout|configs)/[\w/.]+\.(?:py|yaml))", text
        )
    }
)
# what stands for other programs in a shell block
_OTHERS = ("pip", "make", "source", "tensorboard", "torchrun")


def test_tests_are_named() -> None:
    assert len(NAMED) >= 10


@pytest.mark.parametrize("file", FILES)
def test_a_file_that_a_document_names_exists(file: str) -> None:
    assert (ROOT / file).is_file()


@pytest.mark.parametrize(("page", "file", "name"), NAMED)
def test_a_test_that_a_document_names_exists(page: str, file: str, name: str) -> None:
    assert re.search(rf"^(async )?def {name}\(", (ROOT / file).read_text(), re.MULTILINE)


@pytest.mark.parametrize("page", [ROOT / "README.md", *PAGES], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    linked = re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [one for one in linked if not (page.parent / one).exists()] == []


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        furnish(folder)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("page", RUN, ids=lambda page: page.name)
def test_what_a_document_says_to_type_works(
    page: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(home)
    monkeypatch.syspath_prepend(str(home))
    for fence in fences(page):
        if fence.word in ONLY_CHECKED:
            _check(fence)
        elif fence.is_file:
            _write(fence, home)
        elif fence.language == "bash":
            for words in fence.commands():
                _run(words)
        elif fence.language == "python":
            exec(compile(fence.text, page.name, "exec"), {"__name__": page.stem})
    (home / "my_reward.py").write_text(REWARD)  # as every page takes it for granted


def _write(fence: Fence, home: Path) -> None:
    text = fence.text
    if fence.language == "yaml":
        found = yaml.safe_load(text)
        if is_training(found):
            make_train_config(found)
        elif "policy" in found:
            make_config(found)
            # no cluster is started for a toy policy, and few prompts show as much as many
            found |= {"cluster": {"address": "inline"}, "iterations": 1}
            found["prompts"]["per_iteration"], found["eval"] = 16, {"prompts": 16, "k": 2}
        text = yaml.safe_dump(found)
    (home / fence.word).write_text(text)


def _run(words: list[str]) -> None:
    if words[0] == "python":
        subprocess.run([sys.executable, *words[1:]], check=True, timeout=60)
    elif words[0] == "raft":
        _parse(words)
        # `raft doctor` says by its code whether this machine is fit
        code = main([*words[1:], "--quiet"])
        assert code == 0 or words[1] == "doctor", words
    else:
        assert words[0] in _OTHERS, words


def _check(fence: Fence) -> None:
    if fence.language == "python":
        compile(fence.text, "snippet", "exec")
        return
    for words in fence.commands():
        assert words[0] in ("raft", *_OTHERS)
        if words[0] == "raft":
            found = _parse(words)
            config = getattr(found, "config", None)
            # of the repository, or written by the page before
            assert config is None or any((one / config).is_file() for one in (ROOT, Path.cwd()))


def _parse(words: list[str]) -> object:
    found = parser().parse_args(words[1:])
    assert not hasattr(found, "old_names"), words
    return found


def test_keys_that_documents_name_are_keys() -> None:
    known = set(known_keys())
    sections = r"(?:cluster|train|policy|sampling|eval|select|monitor|prompts)"
    said = {
        key
        for text in TEXTS.values()
        for key in re.findall(rf"`({sections}\.\w+)[`:=]", text)
        if not key.endswith((".jsonl", ".json", ".md"))
    }
    assert said and said <= known, said - known


def test_metrics_that_the_report_page_explains_are_written(home: Path) -> None:
    explained = set(re.findall(r"`((?:eval|rollout|select|train|policy)/\w+)`", TEXTS["report.md"]))
    rows = [json.loads(line) for line in (home / "runs/mine/metrics.jsonl").open()]
    written = {key for row in rows for key in row}
    source = "".join(path.read_text() for path in (ROOT / "raft").rglob("*.py"))
    # a judge's, the monitor's and gold's are not in this run: the source has their names
    missing = {
        key for key in explained - written
        if not re.search(key.split("/")[1].removesuffix("_mean").removesuffix("_ci95"), source)
    }  # fmt: skip
    assert missing == set() and len(explained & written) > 8


@pytest.mark.slow
def test_the_notebook_runs(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    cells = json.loads((ROOT / "docs/tour.ipynb").read_text())["cells"]
    code = "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    said = subprocess.run(
        [sys.executable, "-"], input=code, capture_output=True, text=True, timeout=300,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert said.returncode == 0, said.stderr[-2000:]
