"""What sweeps say: means, spreads, paired intervals, and who wins or is beaten only where that is clear."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from nirvana.reporting import sweeps
from nirvana.reporting.sweeps import Cell, Gap, Way, cells, comparison, paired_gap, points_table, verdicts
from nirvana.studies.sweep_grid import Grid
from nirvana.studies.sweep_rows import Row, Value
from tests.sweeps import DENSE, KL, PAIRS, PERPLEXITY, make_row, make_rows


def cell(values: dict[int, float], *, metric: str = PERPLEXITY, criterion: str = "taylor") -> Cell:
    row = make_row(Grid().points()[0])
    return Cell(Way(criterion, "shared", ""), 0.2, metric, dict.fromkeys(values, row), values)


def test_cells_are_means_over_seeds() -> None:
    rows = make_rows()
    found = {(each.way.criterion, each.way.column, each.asked): each for each in cells(rows, PERPLEXITY)}
    assert len(found) == 3 * 2 * 2
    taylor = found["taylor", "shared", 0.4]
    values = [
        row.values[PERPLEXITY].value
        for row in rows
        if (row.point.criterion, row.point.method, row.point.sparsity) == ("taylor", "shared", 0.4)
    ]
    assert taylor.n == 3 and taylor.mean == pytest.approx(np.mean(values)) and taylor.spread == np.std(values, ddof=1)
    assert taylor.sparsity == pytest.approx(0.399) and taylor.fair
    both = [found["nirvana", column, 0.2].rows for column in ("published", "shared")]
    assert both[0] == both[1], "one point serves both columns"
    assert math.isnan(cell({0: 1.0}).spread) and math.isnan(cell({0: 1.0, 1: math.inf}).spread)


def test_intervals_are_students_over_paired_seeds() -> None:
    gap = paired_gap(cell({0: 10.0, 1: 20.0, 2: 40.0, 9: 1.0}), cell({0: 5.0, 1: 10.0, 2: 20.0, 7: 1.0}))
    assert gap is not None and gap.n == 3 and gap.side == 1
    assert gap[:3] == pytest.approx((2.0, 2.0, 2.0)), "differences between seeds cancel"
    logs = np.log([2.0, 3.0])
    gap = paired_gap(cell({0: 2.0, 1: 3.0}), cell({0: 1.0, 1: 1.0}))
    assert gap is not None and gap.value == pytest.approx(math.sqrt(6))
    reach = 12.7062 * logs.std(ddof=1) / math.sqrt(2)
    assert math.log(gap.high) == pytest.approx(logs.mean() + reach) and gap.side == 0
    points = paired_gap(cell({0: 0.7, 1: 0.8}, metric=PAIRS), cell({0: 0.6, 1: 0.7}, metric=PAIRS))
    assert points is not None and points.value == pytest.approx(0.1) and points.side == 1
    assert str(points) == "+10.0 points [+10.0, +10.0]"


@pytest.mark.parametrize(
    ("gap", "shown"),
    [
        (Gap(14.06, 2.826, 69.92, 2, 1.0), "14.06 times [2.826, 69.92]"),
        (Gap(0.99986, 0.99973, 0.999985, 2, 1.0), "0.99986 times [0.99973, 0.999985]"),
        (Gap(1.00014, 1.0001, 1.0002, 2, 1.0), "1.00014 times [1.0001, 1.0002]"),
        (Gap(1.0, 1.0, 1.0, 2, 1.0), "1 times [1, 1]"),
        (Gap(0.0008, 0.0004, 0.0012, 3, 0.0), "+0.08 points [+0.04, +0.12]"),
        (Gap(-0.1, -0.2, 0.0, 3, 0.0), "-10.0 points [-20.0, +0.0]"),
    ],
)
def test_a_gap_shows_the_side_that_it_lies_on(gap: Gap, shown: str) -> None:
    assert str(gap) == shown


@pytest.mark.parametrize("values", [{0: 1.0}, {5: 1.0, 6: 2.0}, {0: 1.0, 1: math.inf}, {0: 1.0, 1: 0.0}])
def test_there_is_no_interval_without_two_usable_seeds(values: dict[int, float]) -> None:
    assert paired_gap(cell(values), cell({0: 1.0, 1: 2.0})) is None


def test_a_winner_is_named_and_nirvana_is_said_to_be_beaten() -> None:
    found = verdicts(make_rows(Grid(sparsities=(0.2,))), PERPLEXITY)
    kinds = [(each.kind, each.text.partition(":")[0]) for each in found]
    same = "20 %, same allocation, gamma 3.36"
    assert kinds == [
        ("winner", "20 %, as published"),
        ("beaten", "20 %, as published"),
        ("winner", same),
        ("beaten", same),
    ]
    assert (
        "taylor has the lowest perplexity on novels" in found[2].text and "The next, nirvana, has 1.1" in found[2].text
    )
    assert "NIRVANA has perplexity on novels 30" in found[3].text and "random" not in found[3].text
    assert "taylor has 0.8" in found[3].text and "times [0." in found[3].text


def test_nirvana_wins_where_it_does() -> None:
    quality = {"nirvana": 1.1, "taylor": 1.6, "random": 3.0}
    rows = make_rows(Grid(sparsities=(0.2,)), lambda point: make_row(point, factor=quality[point.criterion]))
    for metric, word in ((PERPLEXITY, "lowest"), (KL, "lowest"), (PAIRS, "highest")):
        found = verdicts(rows, metric)
        assert [each.kind for each in found] == ["winner", "winner"], metric
        assert all(f"nirvana has the {word}" in each.text for each in found)


def test_noise_names_no_winner() -> None:
    noise = {0: 1.2, 1: 1.9, 2: 1.4}

    def noisy(row: Row) -> Row:
        shift = noise[(row.point.seed + len(row.point.criterion)) % 3]
        return replace(row, values={PERPLEXITY: Value(DENSE * shift, 0.3, DENSE, 0.3)})

    found = verdicts([noisy(row) for row in make_rows(Grid(sparsities=(0.2,)))], PERPLEXITY)
    assert [each.kind for each in found] == ["tie", "tie"]
    assert all("over 3 seeds it is not significantly different from" in each.text for each in found)


def test_one_seed_proves_nothing() -> None:
    found = verdicts(make_rows(Grid(sparsities=(0.2,), seeds=(0,))), PERPLEXITY)
    assert [each.kind for each in found] == ["unknown", "unknown"] and "use more seeds" in found[0].text


def test_a_lucky_seed_does_not_hide_that_nirvana_is_beaten() -> None:
    rows = make_rows(Grid(methods=("shared",), sparsities=(0.2,)))
    lucky = [
        make_row(row.point, factor=1.1) if row.point.criterion == "random" else row
        for row in rows
        if row.point.criterion != "random" or row.point.seed == 0
    ]
    found = verdicts(lucky, PERPLEXITY)
    assert [each.kind for each in found] == ["unknown", "beaten"]
    assert "random has the lowest" in found[0].text and "from one seed" in found[0].text
    assert "taylor has 0.8" in found[1].text and "random" not in found[1].text


def test_seeds_are_counted_that_both_have() -> None:
    rows = make_rows(Grid(methods=("shared",), sparsities=(0.2,)))
    found = verdicts([row for row in rows if (row.point.criterion, row.point.seed) != ("taylor", 2)], PERPLEXITY)
    assert [each.kind for each in found] == ["winner", "beaten"]
    assert all(each.text.endswith("over 2 seeds.") for each in found)


def test_what_removed_another_share_is_left_out() -> None:
    rows = make_rows(
        Grid(sparsities=(0.2,)), lambda point: make_row(point, miss=0.05 if point.criterion == "taylor" else 0)
    )
    found = verdicts(rows, PERPLEXITY)
    assert all("taylor has" not in each.text and "Excluded: taylor" in each.text for each in found)


def test_columns_stand_side_by_side() -> None:
    columns, lines = comparison(make_rows(), PERPLEXITY)
    assert columns == ["as published", "same allocation"]
    assert [(line.criterion, line.asked) for line in lines] == [
        (name, asked) for asked in (0.2, 0.4) for name in ("nirvana", "taylor", "random")
    ]
    assert all(set(line.cells) == set(columns) for line in lines)
    columns, lines = comparison(make_rows(Grid(gammas=(2.0, 4.0), compensations=("none", "bias"))), PERPLEXITY)
    assert columns == [
        "as published",
        "same allocation, gamma 2",
        "same allocation, gamma 2, bias",
        "same allocation, gamma 4",
        "same allocation, gamma 4, bias",
    ]
    assert len(lines) == 6 and all(set(line.cells) == set(columns) for line in lines)


def test_the_shared_allocation_alone_is_one_column() -> None:
    rows = make_rows(Grid(methods=("shared",)))
    columns, lines = comparison(rows, PERPLEXITY)
    assert columns == ["same allocation"] and len(lines) == 6
    assert all("as published" not in each.text for each in verdicts(rows, PERPLEXITY))


def test_failures_leave_gaps_not_numbers() -> None:
    point = Grid().points()[0]
    rows = [*make_rows()[1:], Row(point, failure="Out of reach.")]
    assert all(point.seed not in each.rows for each in cells(rows, KL) if each.asked == 0.2 and each.n == 2)
    assert sweeps.metrics(rows) == [PERPLEXITY, KL, PAIRS]
    table = points_table(rows)
    assert table["failure"].iloc[-1] == "Out of reach." and len(table) == len(rows)
    assert {"sparsity", PERPLEXITY, f"{PERPLEXITY}, standard error", "seconds", "run"} <= set(table)
    assert sweeps.dense_value(rows, PERPLEXITY) == (DENSE, 0.3) and sweeps.dense_value(rows, KL) is None


def test_numbers_in_words() -> None:
    assert sweeps.number(cell({0: 48.0, 1: 49.0})) == "48.50 ± 0.71" and sweeps.number(cell({0: 48.0})) == "48"
    assert sweeps.number(cell({0: 0.71, 1: 0.73}, metric=PAIRS)) == "72.0 ± 1.4 %"
    assert sweeps.number(cell({0: math.inf, 1: 3.0})) == "infinite"
    assert sweeps.title(PERPLEXITY) == "Perplexity on novels" and sweeps.words(KL) == "KL divergence"
