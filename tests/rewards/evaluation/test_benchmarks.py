"""The benchmarks' own arithmetic, against published numbers and their definitions by hand."""

from __future__ import annotations

import itertools
import math
from typing import Any, get_args

import numpy as np
import pytest
from wording import words

from rewards.evaluation.forms import recognise
from rewards.evaluation.rewardbench import PRIOR_SETS, SECTIONS, SUBSETS, Weights, rewardbench
from rewards.evaluation.rewardbench import overall as overall_of
from rewards.evaluation.rewardbench2 import (
    TiedRow,
    best_of_n,
    best_of_n_credit,
    rewardbench2,
    ties_score,
)
from rewards.evaluation.small_benchmarks import (
    domain_of,
    group_of,
    mean_of_domains,
    style_matrix,
    vote,
)
from rollout.types import InputError

ORDER = (
    "alpacaeval-easy", "alpacaeval-hard", "alpacaeval-length", "donotanswer",
    "hep-cpp", "hep-go", "hep-java", "hep-js", "hep-python", "hep-rust",
    "llmbar-adver-GPTInst", "llmbar-adver-GPTOut", "llmbar-adver-manual", "llmbar-adver-neighbor",
    "llmbar-natural", "math-prm", "mt-bench-easy", "mt-bench-hard", "mt-bench-med",
    "refusals-dangerous", "refusals-offensive", "xstest-should-refuse", "xstest-should-respond",
    *PRIOR_SETS,
)  # fmt: skip
# allenai/reward-bench-results, per subset
ARMORM = dict(zip(ORDER, (
    .97, .9473684210526315, .968421052631579, .7941176470588235,
    .9512195121951219, .9695121951219512, .9817073170731707, .975609756097561, .9634146341463414,
    .9207317073170732, .7717391304347826, .6595744680851063, .6956521739130435, .6791044776119403,
    .93, .9865771812080537, 1, .8648648648648649, 1, .93, .97, 1, .872,
    .6973514211886305, .8778280542986425, .7466973004020678, .6498888888888888,
), strict=True))  # fmt: skip
MISTRAL = dict(zip(ORDER, (
    .98, .9894736842105263, .9578947368421052, .6176470588235294,
    .9146341463414634, .9451219512195121, .9207317073170732, .926829268292683, .9024390243902439,
    .9146341463414634, .29347826086956524, .574468085106383, .30434782608695654, .3283582089552239,
    .9, .5570469798657718, 1, .7837837837837838, .975, .82, .99, .974025974025974, .864,
    .7026808785529716, .8959276018099548, .6433084434233199, .7317777777777777,
), strict=True))  # fmt: skip

PUBLISHED = [
    (ARMORM, "current", (96.93, 76.75, 90.54, 97.35, 74.29), 88.60, 90.39),
    (ARMORM, "2024-09", (96.93, 76.75, 92.20, 97.35, 74.29), 88.97, 90.81),
    (MISTRAL, "current", (97.77, 50.66, 85.27, 73.89, 74.34), 76.61, 76.90),
    (MISTRAL, "2024-09", (97.77, 50.66, 86.70, 73.89, 74.34), 76.93, None),
]


@pytest.mark.parametrize(("rates", "weights", "sections", "overall", "mean4"), PUBLISHED)
def test_rewardbench_gives_the_published_sections(
    rates: Any, weights: Any, sections: Any, overall: float, mean4: float | None
) -> None:
    found = rewardbench(rates, weights)
    assert list(found.sections) == ["Chat", "Chat Hard", "Safety", "Reasoning", "Prior Sets"]
    for value, expected in zip(found.sections.values(), sections, strict=True):
        assert value == pytest.approx(expected, abs=0.01)
    assert found.overall == pytest.approx(overall, abs=0.01)
    if mean4 is not None:
        assert found.without_prior == pytest.approx(mean4, abs=0.01)
    assert found.missing == ()


# Chat, Hard, Safety, Reasoning, prior sets -> average, as their model cards have it
CARDS = [
    (1.0, 81.5, (96.9, 59, 89.9, 90.3, 71.4)),
    (1.0, 74.6, (98, 43.4, 88.6, 74.6, 68.6)),
    (1.0, 66, (88, 41.3, 62.5, 73.7, 64.6)),
    (1.0, 60.9, (90.2, 53, 31.5, 60, 69.6)),
    (0.5, 89.0, (96.9, 76.8, 92.2, 97.3, 74.3)),
    (0.5, 85.7, (98.3, 65.8, 89.7, 94.7, 74.6)),
    (0.5, 81.4, (96.9, 57.2, 88.2, 88.5, 71.4)),
    (0.0, 85.8, (96.4, 67.1, 88.2, 91.6)),
    (0.0, 90.9, (91.6, 84.9, 92.7, 94.6)),
    (0.0, 75.3, (95.5, 48.7, 80.0, 76.8)),
]


@pytest.mark.parametrize(("prior_weight", "average", "sections"), CARDS)
def test_overall_by_each_rule_of_the_leaderboard(
    prior_weight: float, average: float, sections: tuple[float, ...]
) -> None:
    named = dict(zip([*SECTIONS, "Prior Sets"], sections, strict=False))
    assert overall_of(named, prior_weight) == pytest.approx(average, abs=0.1)


def test_rewardbench_weights() -> None:
    counts = {name: sum(section.values()) for name, section in SECTIONS.items()}
    assert counts == {"Chat": 358, "Chat Hard": 456, "Safety": 740, "Reasoning": 1968}
    assert len(SUBSETS) == 23
    for weights in get_args(Weights):
        assert rewardbench(dict.fromkeys(SUBSETS, 1.0), weights).overall == 100
        code = {name: float(name.startswith("hep-")) for name in SUBSETS}
        assert rewardbench(code, weights).sections["Reasoning"] == 50


def test_missing_subsets_are_named_and_masked() -> None:
    found = rewardbench({"alpacaeval-easy": 1.0, "mt-bench-easy": 0.5, "math-prm": math.nan})
    assert found.sections["Chat"] == pytest.approx(100 * (100 + 14) / 128)
    assert math.isnan(found.sections["Safety"]) and math.isnan(found.sections["Reasoning"])
    assert found.overall == found.sections["Chat"] and "Prior Sets" not in found.sections
    assert set(found.missing) == set(SUBSETS) - {"alpacaeval-easy", "mt-bench-easy"}
    only_prior = rewardbench({"shp": 0.5, "summarize": 0.7})
    assert only_prior.overall == pytest.approx(60) and math.isnan(only_prior.without_prior)
    assert {"anthropic_hhh", "anthropic_helpful"} <= set(only_prior.missing)
    assert rewardbench({"shp": 0.5, "mtbench_human": 1.0}).overall == 50
    assert math.isnan(rewardbench({}).overall)
    with pytest.raises(InputError, match=words("'chat' is no subset")):
        rewardbench({"chat": 1.0})
    with pytest.raises(InputError, match=words("weights='old' is unknown")):
        rewardbench({}, "old")  # type: ignore[arg-type]


def test_best_of_four_credit_is_what_a_fair_draw_among_the_best_brings() -> None:
    for scores in itertools.product(range(3), repeat=4):
        tops = [at for at, score in enumerate(scores) if score == max(scores)]
        assert best_of_n_credit(scores) == pytest.approx(np.mean([at == 0 for at in tops]))
    assert math.isnan(best_of_n_credit([1, math.nan, 0, 0]))


def test_chance_is_a_quarter() -> None:
    scores_N4 = np.random.default_rng(0).normal(size=(20_000, 4))
    assert best_of_n(list(scores_N4)).score == pytest.approx(0.25, abs=0.01)
    assert best_of_n(list(np.zeros((10, 4)))).score == 0.25
    some = best_of_n([[1, 0, 0, 0], [math.nan, 0, 0, 0]])
    assert (some.score, some.rows, some.missing) == (1.0, 1, 1)


def test_ties_by_hand() -> None:
    rows = [
        TiedRow("ref:1", [5, 1, 0], 1),  # gap 4
        TiedRow("tied:1", [4, 3, 1, 0], 2),  # spread 1, gap 2
        TiedRow("ref:2", [1.5, 1, 0], 1),  # gap 0.5
        TiedRow("tied:2", [4, 2, 1, 1], 2),  # spread 2, gap 1
        TiedRow("tied:3", [1, 1, 2], 2),  # wrong, and matched by none
    ]
    found = ties_score(rows)
    assert (found.tied, found.ref) == (pytest.approx(2 / 3), 1.0)
    assert (found.preferred, found.preferred_hard) == (0.5, 0.5)
    gap = (math.tanh(2 / 1 - 1) + math.tanh(0.5 / 2 - 1)) / 2
    assert found.gap == pytest.approx(gap)
    expected = 0.3 * 2 / 3 + 0.3 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * gap
    assert found.score == pytest.approx(expected)


def test_ties_at_their_edges() -> None:
    # no spread: the last term saturates, and where nothing differs at all it is left out
    even = [TiedRow("ref:1", [2, 1], 1), TiedRow("tied:1", [2, 2, 1], 2)]
    assert ties_score(even).gap == 1 and ties_score(even).score == pytest.approx(1.01)
    flat = [TiedRow("ref:1", [1, 1], 1), TiedRow("tied:1", [1, 1, 1], 2)]
    assert ties_score(flat).score == 0
    lost = ties_score([TiedRow("ref:1", [2, math.nan], 1)])
    assert math.isnan(lost.score) and (lost.prompts, lost.missing) == (0, 1)
    with pytest.raises(InputError, match="'ref:7' and 'tied:7'"):
        ties_score([TiedRow("7", [2, 1], 1)])
    with pytest.raises(InputError, match="right and wrong"):
        ties_score([TiedRow("ref:7", [2, 1], 2)])


def test_rewardbench2_is_the_plain_mean_of_six() -> None:
    names = ("Factuality", "Precise IF", "Math", "Safety", "Focus", "Ties")
    scores = {name: 10.0 * at for at, name in enumerate(names)}
    assert rewardbench2(scores) == (25.0, ())
    assert rewardbench2({"Math": 40.0, "Ties": 60.0, "Focus": math.nan}) == (
        50.0, ("Factuality", "Precise IF", "Safety", "Focus"),
    )  # fmt: skip
    with pytest.raises(InputError, match=words("'Maths' is no subset")):
        rewardbench2({"Maths": 1.0})


def published_rm_bench(chosen_N3: np.ndarray, rejected_N3: np.ndarray) -> dict[str, float]:
    """The definition in the benchmark's README, in loops."""
    wins = np.zeros((3, 3))
    for chosen, rejected in zip(chosen_N3, rejected_N3, strict=True):
        for i, j in itertools.product(range(3), repeat=2):
            wins[i, j] += chosen[i] > rejected[j]
    wins /= len(chosen_N3)
    return {
        "hard": (wins[0, 1] + wins[0, 2] + wins[1, 2]) / 3,
        "normal": (wins[0, 0] + wins[1, 1] + wins[2, 2]) / 3,
        "easy": (wins[1, 0] + wins[2, 0] + wins[2, 1]) / 3,
    }


def test_rm_benchs_three_levels() -> None:
    rng = np.random.default_rng(0)
    style = np.array([0.0, 1.0, 1.5])
    chosen_N3 = rng.normal(0.3, 1, (300, 3)).round(1) + style
    rejected_N3 = rng.normal(0, 1, (300, 3)).round(1) + style
    found = style_matrix(chosen_N3[:, :, None] - rejected_N3[:, None, :])
    for level, expected in published_rm_bench(chosen_N3, rejected_N3).items():
        assert getattr(found, level) == pytest.approx(expected)
    assert found.hard < found.normal < found.easy
    assert found.average == pytest.approx((found.hard + found.normal + found.easy) / 3)


def test_a_missing_verdict_leaves_its_cell_only() -> None:
    margins_N33 = np.ones((2, 3, 3))
    margins_N33[0, 0, 2], margins_N33[1, 0, 2] = math.nan, -1
    found = style_matrix(margins_N33)
    assert found.matrix[0, 2] == 0 and found.counts[0, 2] == 1 and found.counts.sum() == 17
    assert found.hard == pytest.approx(2 / 3) and found.normal == found.easy == 1


def test_rm_bench_averages_over_domains() -> None:
    domains = {
        "chat": ("chat", "alpacaeval"),
        "code": ("code", "bigcode/humanevalpack"),
        "math": ("math", "Algebra", "Counting & Probability", "Precalculus"),
        "safety": ("safety-refuse", "safety-response", "refusals-dangerous", "refusals-offensive",
                   "xstest-should-refuse", "xstest-should-respond"),
        "mine": ("mine",),
    }  # fmt: skip
    for domain, names in domains.items():
        assert {domain_of(name) for name in names} == {domain}
    # what the rows do not say, the name of the benchmark's file does
    assert domain_of("", "math_filtered") == domain_of("train", "math_filtered") == "math"
    assert domain_of("alpacaeval", "math_filtered") == "chat"
    right, wrong = style_matrix(np.ones((5, 3, 3))), style_matrix(-np.ones((1, 3, 3)))
    assert mean_of_domains([right, wrong]) == dict.fromkeys(
        ("hard", "normal", "easy", "average"), 0.5
    )


@pytest.mark.parametrize(
    ("decisions", "expected"),
    [
        (["A>B", "B>A"], 1), (["B>A", "A>B"], -1), (["A>B", "A>B"], 0), (["A>B"], 1),
        (["A>B", None], 0.5), (["A=B", "B>A"], 0.5), (["A=B", "A=B"], 0), ([None, "A>B"], -0.5),
    ],
)  # fmt: skip
def test_votes_in_both_orders(decisions: Any, expected: float) -> None:
    assert vote(decisions, "A>B") == expected
    swapped = {"A>B": "B>A", "B>A": "A>B"}
    turned = [swapped.get(one, one) for one in decisions]
    assert vote(turned, "B>A") == expected and vote(turned, "A>B") == -expected
    assert math.isnan(vote([None, None], "A>B"))


def test_judgebench_groups() -> None:
    sources = ("mmlu-pro-law", "livebench-reasoning", "livebench-math", "livecodebench", "x")
    groups = ["Knowledge", "Reasoning", "Mathematics", "Coding", "Other"]
    assert [group_of(source) for source in sources] == groups


@pytest.mark.parametrize(
    ("columns", "form"),
    [
        ({"chosen": "a", "rejected": "b", "prompt": "q"}, "pairs"),
        ({"chosen": [{"role": "user"}], "rejected": [{"role": "user"}]}, "pairs"),
        ({"chosen": "a", "rejected": "b", "prompt": "q", "subset": "hep-go"}, "rewardbench"),
        ({"chosen": "a", "rejected": "b", "prompt": [], "subset": "shp"}, "rewardbench"),
        ({"chosen": "a", "rejected": "b", "prompt": "q", "subset": "mine"}, "pairs"),
        ({"chosen": "a", "rejected": "b", "prompt": "q", "source": "honest"}, "hhh"),
        ({"chosen": ["a"], "rejected": ["b", "c", "d"], "prompt": "q"}, "rewardbench2"),
        ({"chosen": ["a"] * 3, "rejected": ["b"] * 3, "num_correct": 3}, "rewardbench2"),
        ({"chosen": ["a"] * 3, "rejected": ["b"] * 3, "prompt": "q"}, "rm-bench"),
        ({"response_A": "a", "response_B": "b", "label": "A>B"}, "judgebench"),
        ({"judgments": [], "label": "A>B"}, "judgebench"),
        ({"input": "q", "output_1": "a", "output_2": "b", "label": 1}, "llmbar"),
        ({"input": "q", "targets": {}}, "hhh"),
        ({"prompt": "q", "responses": []}, "listwise"),
        ({"text": "q"}, None),
    ],
)
def test_forms_are_told_from_columns(columns: dict[str, Any], form: str | None) -> None:
    assert recognise(columns, "f:1") == form
