"""Progress: a bar with the time left on a terminal, a line with the seconds elsewhere."""

from __future__ import annotations

import io
import logging
import sys

import pytest

from rollout import progress
from rollout.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_long_stage_is_told_where_there_is_no_bar(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="rollout")
    with Progress("short", 2) as bar:
        bar.advance(2)
    assert caplog.messages == []
    monkeypatch.setattr(progress, "_LONG", 0.0)
    with Progress("drawing", 5, done=2) as bar:
        bar.advance(3)
    (line,) = caplog.messages
    assert line.startswith("drawing: 3 in ") and line.endswith(" s")
    with pytest.raises(ValueError), Progress("failing", 1):
        raise ValueError  # what failed did not take its seconds
    assert len(caplog.messages) == 1


def test_a_terminal_shows_count_and_time_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="rollout")
    monkeypatch.setattr(progress, "_LONG", 0.0)
    monkeypatch.setattr(sys, "stderr", terminal := Terminal())
    with Progress("drawing", 4) as bar:
        bar._bar.mininterval = 0
        bar.advance(1)
        bar.advance(1)
    assert "drawing" in terminal.getvalue() and "2/4" in terminal.getvalue()
    assert "<" in terminal.getvalue()  # elapsed<remaining
    assert caplog.messages == []
