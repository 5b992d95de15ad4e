"""The two append logs of a stage and the file they become."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from rollout.storage.append_log import AppendLog
from rollout.storage.files import whole_file, write_whole
from rollout.storage.rollout_store import RolloutStore, part_key
from rollout.types import Completion, Group, InputError, Prompt

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def group(prompt: Prompt, *responses: str) -> Group:
    completions = tuple(
        Completion(text, (number, 7), "stop" if number else "length", number)
        for number, text in enumerate(responses)
    )
    return Group(prompt, completions, policy_version=1)


def prompts(count: int) -> list[Prompt]:
    return [Prompt(f"p{n}", f"text {n}", token_ids=(n, n)) for n in range(count)]


@pytest.mark.slow
@given(st.dictionaries(texts, texts, max_size=6), st.integers(0, 400))
@hypothesis_settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_log_cut_anywhere_holds_its_whole_rows(
    tmp_path: Path, content: dict[str, str], cut: int
) -> None:
    # and takes the lost ones again, as if nothing had been
    path = tmp_path / "log"
    path.unlink(missing_ok=True)
    with AppendLog(path) as log:
        for key, text in content.items():
            log.append({"id": key, "text": text})
    whole = path.read_bytes()
    path.write_bytes(whole[:cut])
    with AppendLog(path) as log:
        assert list(log.ids()) == list(content)[: whole[:cut].count(b"\n")]
        for key, text in content.items():
            if key not in log:
                log.append({"id": key, "text": text})
        assert {key: log.read(key)["text"] for key in log.ids()} == content
    assert path.read_bytes() == whole


def test_nothing_is_stored_twice(tmp_path: Path) -> None:
    with AppendLog(tmp_path / "log") as log:
        log.append({"id": "a"})
        with pytest.raises(RuntimeError, match="a is there already"):
            log.append({"id": "a"})
    with AppendLog(tmp_path / "log") as log, pytest.raises(RuntimeError):
        log.append({"id": "a"})


def test_half_a_row_does_not_stay_before_the_next(tmp_path: Path) -> None:
    # a write that fails half-way leaves no half row, even if somebody goes on
    class Failing:
        def __init__(self, file: Any) -> None:
            self.file, self.left = file, 1

        def write(self, data: bytes) -> int:
            if self.left:
                self.left -= 1
                return self.file.write(data[:5])
            raise OSError(28, "No space left on device")

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    with AppendLog(tmp_path / "log") as log:
        log.append({"id": "a"})
        log._file = Failing(log._file)  # type: ignore[assignment]
        with pytest.raises(OSError, match=r"No space left on device: '.*/log'"):
            log.append({"id": "b"})
        log._file = log._file.file  # type: ignore[attr-defined]
        log.append({"id": "c"})
    assert (tmp_path / "log").read_text() == '{"id": "a"}\n{"id": "c"}\n'


def test_a_short_write_is_finished(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Slow:
        def __init__(self, file: Any) -> None:
            self.file = file

        def write(self, data: bytes) -> int:
            return self.file.write(data[:3])

        def __getattr__(self, name: str) -> Any:
            return getattr(self.file, name)

    with AppendLog(tmp_path / "log") as log:
        log._file = Slow(log._file)  # type: ignore[assignment]
        log.append({"id": "a", "text": "é" * 10})
        assert log.read("a")["text"] == "é" * 10


def test_the_file_is_in_prompt_order_whatever_came_first(tmp_path: Path) -> None:
    asked = prompts(4)
    store = RolloutStore(tmp_path, "rollouts", asked, version=1)
    for prompt in (asked[2], asked[0], asked[3], asked[1]):
        store.add_samples(group(prompt, f"a {prompt.id}", "b"))
    for prompt in reversed(asked):
        store.add_scores(prompt.id, {"reward": [1.0, None], "gold": [0.0, 2.0]})
    assert not store.complete
    store.finish()
    rows = [row.to_json() for row in store.rows()]
    assert [row["id"] for row in rows] == ["p0", "p1", "p2", "p3"]
    assert rows[1] == {
        "id": "p1",
        "prompt": "text 1",
        "responses": ["a p1", "b"],
        "scores": [1.0, None],
        "gold_scores": [0.0, 2.0],
        "finish_reasons": ["length", "stop"],
        "policy_version": 1,
        "seeds": [0, 1],
        "prompt_token_ids": [1, 1],
        "token_ids": [[0, 7], [1, 7]],
    }
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts.jsonl"]


def test_a_reopened_store_gives_back_what_it_holds(tmp_path: Path) -> None:
    asked = prompts(3)
    store = RolloutStore(tmp_path, "eval", asked, version=1)
    drawn = [group(prompt, "x\n\u2028", "") for prompt in asked[:2]]
    for one in drawn:
        store.add_samples(one)
    store.add_scores("p0", {"reward": [0.5, 0.25]})
    again = RolloutStore(tmp_path, "eval", asked, version=1)
    assert [prompt.id for prompt in again.undrawn()] == ["p2"]
    assert again.unscored() == ["p1"]
    assert again.group("p1") == drawn[1]


def test_scores_without_samples_are_refused(tmp_path: Path) -> None:
    asked = prompts(2)
    store = RolloutStore(tmp_path, "eval", asked, version=1)
    store.add_samples(group(asked[0], "x"))
    store.add_scores("p0", {"reward": [0.5]})
    (tmp_path / ".eval.samples").write_text("")
    with pytest.raises(InputError, match=r"\.eval\.scores: row 'p0' belongs to no prompt"):
        RolloutStore(tmp_path, "eval", asked, version=1)


@pytest.mark.slow
def test_rows_stay_out_of_memory(tmp_path: Path) -> None:
    # 64 MiB of rows go through; what stays is an index
    import tracemalloc

    asked = prompts(256)
    tracemalloc.start()
    store = RolloutStore(tmp_path, "rollouts", asked, version=1)
    for prompt in asked:
        store.add_samples(group(prompt, "x" * 2**18))
        store.add_scores(prompt.id, {"reward": [1.0]})
    store.finish()
    assert sum(len(row.responses[0]) for row in store.rows()) == 64 * 2**20
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * 2**20


def test_a_file_is_there_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_whole(path, "old")
    with pytest.raises(KeyboardInterrupt), whole_file(path) as file:
        file.write("new")
        file.flush()
        raise KeyboardInterrupt
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_parts_of_a_prompt_become_one_row(tmp_path: Path) -> None:
    asked = prompts(2)
    store = RolloutStore(tmp_path, "rollouts", asked, version=1)
    for prompt in asked:
        store.add_samples(group(prompt, "a", "b"))
        store.add_scores(prompt.id, {"reward": [1.0, None]})
    assert [row.scores["scores"] for row in store.so_far()] == [[1.0, None]] * 2
    later = replace(asked[1], samples=(2,))
    store.extend([later])
    assert store.undrawn() == [later]
    store.add_samples(group(later, "c"))
    again = RolloutStore(tmp_path, "rollouts", asked, version=1)
    # until it is asked for, the later part is nothing to score
    assert again.unscored() == []
    again.extend([later])
    assert again.undrawn() == []
    assert again.unscored() == [part_key(later)]
    assert again.group(part_key(later)) == group(later, "c")
    again.add_scores(part_key(later), {"reward": [3.0]})
    assert [len(row.responses) for row in again.so_far()] == [2, 3]
    again.finish()
    first, second = again.rows()
    assert (first.responses, first.scores["scores"]) == (["a", "b"], [1.0, None])
    assert (second.responses, second.scores["scores"]) == (["a", "b", "c"], [1.0, None, 3.0])
    assert second.token_ids == [[0, 7], [1, 7], [0, 7]]
    assert second.finish_reasons == ["length", "stop", "length"]
    assert [path.name for path in tmp_path.iterdir()] == ["rollouts.jsonl"]
