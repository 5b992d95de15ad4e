"""`raft doctor --gpu`, with the engine that needs neither a GPU nor a minute."""

from __future__ import annotations

from typing import Any

import pytest

from raft.runs.doctor_engine import examine_engine


def verdicts() -> dict[str, tuple[str, str]]:
    return {one.what: (one.level, one.detail) for one in examine_engine("transformers")}


@pytest.mark.slow
def test_an_engine_that_does_what_it_should_is_fine() -> None:
    found = verdicts()
    expected = {
        "engine": "ok", "log-probs": "ok", "draws": "ok", "sleep": "note", "new weights": "ok",
    }  # fmt: skip
    assert {what: level for what, (level, _) in found.items()} == expected
    assert found["sleep"][1] == "needs a GPU" and "1.00 of the update" in found["new weights"][1]


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "broken", "seen"),
    [
        ("load_weights", lambda *_: None, "new weights"),
        ("log_probs", lambda _, ids: [-1.0] * (len(ids) - 1), "log-probs"),
        ("generate", lambda *_: iter(()), "draws"),
    ],
)
def test_what_is_wrong_is_named(
    monkeypatch: pytest.MonkeyPatch, method: str, broken: Any, seen: str
) -> None:
    from rollout.engines.transformers import TransformersEngine

    monkeypatch.setattr(TransformersEngine, method, broken)
    assert verdicts()[seen][0] == "wrong"


@pytest.mark.slow
def test_an_engine_that_does_not_start_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import rollout.engines.base

    def fails(*_: Any, **__: Any) -> Any:
        raise RuntimeError("CUDA error: no kernel\nimage is available")

    monkeypatch.setattr(rollout.engines.base, "build_engine", fails)
    level, detail = verdicts()["engine"]
    assert level == "wrong" and "no kernel" in detail and "\n" not in detail
