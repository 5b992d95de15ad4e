"""Settings as YAML: what is said twice, or more than can be meant, is refused in one line."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path

import pytest
import toy_runs
import yaml
from wording import refusal, words

from rollout.data.overrides import parse_yaml
from rollout.errors import InputError


def bomb(levels: int, width: int = 10, *, mapping: bool = False) -> str:
    """Each level holds the one before `width` times."""
    lines = ["l0: &l0 [x, x]"]
    for level in range(1, levels):
        inner = [f"k{n}: *l{level - 1}" if mapping else f"*l{level - 1}" for n in range(width)]
        text = ", ".join(inner)
        lines.append(f"l{level}: &l{level} " + (f"{{{text}}}" if mapping else f"[{text}]"))
    return "\n".join(lines) + "\n"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "f:3: the key 'a' stands twice"),
        ("s:\n  x: 1\n  y: 2\n  x: 3\n", "f:4: the key 'x' stands twice"),
        ("{a: 1, a: 2}", "f: the key 'a' stands twice"),
        ("1: a\n0x1: b\n", "f:2: the key 1 stands twice"),
        ("- {a: 1}\n- {a: 1,\n   a: 2}\n", "f:3: the key 'a' stands twice"),
        (bomb(9), "aliases repeat too many"),
        (bomb(9, mapping=True), "aliases repeat too many"),
        ("a: &a [*a]\n", "*a stands within itself"),
        ("a: &a {b: [{c: *a}]}\n", "*a stands within itself"),
        ("[" * 5000 + "]" * 5000, "nested too deeply"),
        ("{a: " * 5000, "nested too deeply"),
        ("".join("  " * level + "a:\n" for level in range(300)), "nested too deeply"),
        ("a: [1\n", "f:2"),
        ("a: 2024-13-01", "month"),
        ("a: !!python/object/apply:os.getcwd []", "constructor"),
        ("a: " + "9" * 5000, "4300 digits"),
    ],
)
def test_what_is_refused(text: str, said: str) -> None:
    began = time.monotonic()
    with pytest.raises(InputError, match=words(said)) as caught:
        parse_yaml(text, "f")
    assert "\n" not in str(caught.value) and time.monotonic() - began < 10


@pytest.mark.slow
def test_what_is_meant_is_read() -> None:
    # by the library itself: aliases and merge keys, and values of every kind
    draw = random.Random(0)
    for _ in range(50):
        value = {f"k{n}": draw.choice([1, 2.5, "x", None, True, [1, {"a": "b"}]]) for n in range(9)}
        text = yaml.safe_dump({**value, "shared": [value["k0"]] * 3, "again": [value] * 3})
        assert parse_yaml(text, "f") == yaml.safe_load(text)
    text = "base: &b {x: 1, y: 2}\none:\n  <<: *b\n  x: 3\ntwo: [*b, *b]\n"
    assert parse_yaml(text, "f") == yaml.safe_load(text)
    many = json.dumps({"words": [f"w{n}" for n in range(20_000)]})
    assert parse_yaml(many, "f") == json.loads(many)


def test_every_config_is_read_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "x.yaml"
    for command in (["run"], ["validate"], ["train-reward"], ["train-reward", "--check"]):
        file.write_text("run_dir: a\nseed: 1\nrun_dir: b\n")
        assert "x.yaml:3: " in refusal(capsys, *command, file)
        file.write_text(bomb(9))
        assert "aliases" in refusal(capsys, *command, file)
        file.write_text("seed: 1\n")
        assert "stands within itself" in refusal(capsys, *command, file, "run_dir=&a [*a]")
    rows = toy_runs.write_rows(tmp_path / "rows.jsonl", [{"prompt": "a", "response": "b"}])
    file.write_text("reward: {kind: function,\n  function: length,\n  function: regex}\n")
    assert "x.yaml:3: " in refusal(capsys, "score", "--reward", file, rows)


@pytest.mark.parametrize("given", ["2024-01-01", "7", "1.5", "yes"])
def test_text_that_yaml_takes_for_something_else(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str
) -> None:
    file = str(toy_runs.config_file(tmp_path))
    message = refusal(capsys, "validate", file, f"run_dir={given}")
    assert "run_dir: " in message and "quote it" in message
    assert "quote it" not in refusal(capsys, "validate", file, "run_dir=[a]")
    (tmp_path / "run.yaml").write_text(f"run_dir: {given}\n")
    assert "quote it" in refusal(capsys, "validate", file)
