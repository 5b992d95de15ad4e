"""The best-of-n benchmark without engines: its arithmetic, and that `--help` answers."""

from __future__ import annotations

import pytest

from experiments.bench import best_of_n


def test_ratios_and_report() -> None:
    found = {
        "responses": 64,
        "seconds": {
            best_of_n.BARE: [10.0, 10.0], best_of_n.DRAW: [11.0, 12.0],
            best_of_n.SCORE: [6.0, 16.0], best_of_n.BOTH: [12.1, 20.0],
        },
        "tokens": {
            best_of_n.BARE: [100, 100], best_of_n.DRAW: [110, 100],
            best_of_n.SCORE: [110, 100], best_of_n.BOTH: [100, 100],
        },
    }  # fmt: skip
    generation, overlap = best_of_n.ratios(found)
    assert generation == pytest.approx([1.0, 10 / 12])
    assert overlap == pytest.approx([1.1, 1.25])  # against the slower of the two, in each repeat
    text = best_of_n.report(found)
    assert "0.917 (0.833 to 1)" in text and "(1.1 to 1.25)" in text


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        best_of_n.main(["--help"])
    assert ended.value.code == 0 and "--reward-layers" in capsys.readouterr().out
