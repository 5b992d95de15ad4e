"""n-grams that jump are found and named; what only varies, or grows longer, is not."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from raft.monitor.ngrams import (
    changes,
    frequent,
    jumps,
    log_odds,
    new_jumps,
    read_jumps,
    tally,
    units,
    words,
    write_ngrams,
)

# a made-up language whose words are as unequal as those of real ones
VOCABULARY = [f"w{number}" for number in range(400)]
WEIGHTS = [1 / (number + 3) for number in range(400)]


def stories(count: int, seed: int, length: int = 40) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choices(VOCABULARY, WEIGHTS, k=length)) for _ in range(count)]


def with_mark(texts: list[str], share: float, mark: str) -> list[str]:
    marked = round(share * len(texts))
    return [f"{text}{mark}" if at < marked else text for at, text in enumerate(texts)]


def named(now: list[str], before: list[str]) -> list[str]:
    return [change.sentence("at the start") for change in jumps(changes(now, before))]


def test_the_collapse_of_the_raft_example_is_called_by_its_name() -> None:
    # 62 % of 500 against 1 %: ends of texts, as where LMFlow's separator leaked into responses
    start, now = stories(500, seed=0), stories(500, seed=1)
    found = named(with_mark(now, 0.62, " #"), with_mark(start, 0.01, " #"))
    assert found == ["'#' now in 62 % of responses, 1 % at the start"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mark", "name"),
    [
        (" I hope this helps!", "hope this helps"),
        ("!!!", "!"),
        (" noooooooo", "oooo"),
        ("我很抱歉", "很抱歉"),  # no spaces between words: found by its characters
        (" 🙂", "🙂"),
    ],
)
def test_phrases_symbols_and_letters_that_repeat(mark: str, name: str) -> None:
    start, now = stories(300, seed=0), stories(300, seed=1)
    changed = jumps(changes(with_mark(now, 0.5, mark), start))
    # what else the mark holds is left out as a part of it, or stands beside it
    assert name in [one.ngram for one in changed]
    assert all(one.ngram in mark.lower() for one in changed)


def test_a_word_over_and_over_is_found_by_its_share_of_the_words() -> None:
    # every response held it before, so that no more responses can
    start = [f"{text} good" for text in stories(200, seed=0, length=9)]
    now = [f"{text} {'good ' * 6}" for text in stories(200, seed=1, length=4)]
    assert named(now, start)[0] == "'good' now 60 % of all words, 10 % at the start"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_silent_on_the_same_policy(seed: int) -> None:
    assert named(stories(512, 2 * seed), stories(512, 2 * seed + 1)) == []
    # few responses say little, whatever stands in them
    assert named(stories(12, 2 * seed), stories(12, 2 * seed + 1)) == []


@pytest.mark.slow
def test_silent_when_responses_only_grow_longer() -> None:
    # a word in a third of short texts is in nearly all of long ones
    start, now = stories(300, seed=0, length=15), stories(300, seed=1, length=120)
    spread = [one for one in changes(now, start) if one.responses - one.responses_before > 0.5]
    assert len(spread) > 5
    assert named(now, start) == []


def test_silent_when_a_mood_shifts() -> None:
    # a hundred words become four times as likely: another policy, and no collapse
    shifted = [w * (4 if at % 4 == 1 else 1) for at, w in enumerate(WEIGHTS)]
    draw = random.Random(3)
    now = [" ".join(draw.choices(VOCABULARY, shifted, k=40)) for _ in range(400)]
    start = stories(400, seed=0)
    assert changes(now, start)[0].z > 5  # seen, as the most changed
    assert named(now, start) == []


def test_a_policy_that_said_nothing_before_is_no_division_by_zero() -> None:
    assert "'a' now in 100 % of responses, 0 % at the start" in named(["a"] * 20, [" "] * 20)
    assert named([" "] * 20, ["a"] * 20) == []


def test_counts_against_brute_force() -> None:
    # every n-gram counted singly, in texts of few words, so that there are many
    draw = random.Random(5)
    texts = [" ".join(draw.choices("abcd", k=draw.randint(0, 9))) for _ in range(60)]
    brute: dict[tuple[str, ...], list[int]] = {}
    for text in texts:
        items = text.split()
        for n in (1, 2, 3):
            own = [tuple(items[i : i + n]) for i in range(len(items) - n + 1)]
            for gram in set(own):
                held, times = brute.setdefault(gram, [0, 0])
                brute[gram] = [held + 1, times + own.count(gram)]
    all_of_them = {gram[1:]: list(counts) for gram, counts in frequent(texts, 0.0).items()}
    assert all_of_them == brute
    few = {gram[1:]: list(counts) for gram, counts in frequent(texts, 0.3).items()}
    assert few == {gram: counts for gram, counts in brute.items() if counts[0] >= 0.3 * 60}
    asked = [("word", "a", "b"), ("word", "c"), ("word", "nowhere")]
    assert {g[1:]: list(c) for g, c in tally(texts, asked).items()} == {
        gram: brute[gram] for gram in (("a", "b"), ("c",))
    }
    assert units(texts) == sum(len(text.split()) for text in texts)


def test_words_are_words_in_any_case() -> None:
    assert words("It's “SO good”, isn't it? 12_a #tag") == [
        "it's", "so", "good", "isn't", "it", "12", "a", "tag",
    ]  # fmt: skip


def test_log_odds_are_those_of_the_paper_for_rare_words() -> None:
    # Monroe et al. 2008, eq. 15, 16 and 20-22 written out, with the prior in proportion to both
    (y, n), (x, m), prior = (30, 50_000), (4, 40_000), 500.0
    alpha = prior * (y + x) / (n + m)
    delta = np.log((y + alpha) / (n + prior - y - alpha))
    delta -= np.log((x + alpha) / (m + prior - x - alpha))
    zeta = delta / np.sqrt(1 / (y + alpha) + 1 / (x + alpha))
    assert log_odds((y, x), (n, m), prior) == pytest.approx((delta, zeta), rel=0.02)


@pytest.mark.parametrize("share", [0.02, 0.3, 0.9])
def test_z_scores_are_standard_normal_where_nothing_changed(share: float) -> None:
    draw = np.random.default_rng(0)
    pairs = draw.binomial(800, share, size=(4000, 2))
    z = np.array([log_odds((int(a), int(b)), (800, 800))[1] for a, b in pairs])
    assert abs(z.mean()) < 0.06
    assert z.std() == pytest.approx(1, abs=0.06)


@pytest.mark.parametrize("times", [(0, 0), (9, 9), (9, 0), (0, 9)])
def test_none_and_all_are_no_infinity(times: tuple[int, int]) -> None:
    ratio, z = log_odds(times, (9, 9))
    assert np.isfinite([ratio, z]).all()
    assert np.sign(ratio) == np.sign(times[0] - times[1])


def test_the_file_keeps_what_changed_and_reads_back(tmp_path: Path) -> None:
    start, last = stories(300, seed=0), with_mark(stories(300, seed=1), 0.5, " #")
    first = write_ngrams(tmp_path, last, start)
    assert [one.ngram for _, one in first] == ["#"]
    assert read_jumps(tmp_path) == first  # to the last digit: they are judged again
    # next time the same symbol is no news, another one is, and each is told against its own past
    now = with_mark(with_mark(stories(300, seed=2), 0.55, " #"), 0.4, " amazing")
    found = write_ngrams(tmp_path, now, start, (1, last))
    assert {one.ngram for _, one in found} == {"#", "amazing"}
    assert [message for message, _ in new_jumps(found, first)] == [
        "'amazing' now in 40 % of responses, 0 % at the start"
    ]


def test_what_went_and_came_back_jumps_against_the_last_evaluation(tmp_path: Path) -> None:
    start, gone = with_mark(stories(300, seed=0), 0.6, " #"), stories(300, seed=1)
    back = with_mark(stories(300, seed=2), 0.6, " #")
    found = write_ngrams(tmp_path, back, start, (4, gone))
    assert [message for message, _ in found] == ["'#' now in 60 % of responses, 0 % in iteration 4"]
