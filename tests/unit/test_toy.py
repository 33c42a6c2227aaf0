"""The two-weight network of the Method page, against finite differences and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from nirvana.reporting.figures.toy import kernel_map, removal
from nirvana.reporting.toy import Toy, output

DRAW = np.random.default_rng(0)
TOYS = [Toy(*map(float, DRAW.uniform(-2.5, 2.5, 3))) for _ in range(20)]
STEP = 1e-5


def f(toy: Toy) -> float:
    """The formula, written a second time."""
    return toy.w2 * (math.exp(2 * toy.w1 * toy.x) - 1) / (math.exp(2 * toy.w1 * toy.x) + 1)


@pytest.mark.parametrize("toy", TOYS)
def test_gradient_and_kernel_are_those_of_finite_differences(toy: Toy) -> None:
    assert toy.output == pytest.approx(f(toy))
    slopes = [
        (f(toy._replace(**{name: getattr(toy, name) + STEP})) - f(toy._replace(**{name: getattr(toy, name) - STEP})))
        / (2 * STEP)
        for name in ("w1", "w2")
    ]
    assert toy.gradient == pytest.approx(slopes, abs=1e-8)
    assert toy.kernel == pytest.approx(sum(map(abs, slopes)), abs=1e-8)
    assert toy.saliency == pytest.approx([abs(slopes[0] * toy.w1), abs(slopes[1] * toy.w2)], abs=1e-7)


@pytest.mark.parametrize("toy", TOYS)
def test_a_small_sign_step_changes_the_output_by_its_size_times_the_kernel(toy: Toy) -> None:
    after = toy.step(STEP)
    assert abs(after.w1 - toy.w1) == pytest.approx(STEP) and abs(after.w2 - toy.w2) == pytest.approx(STEP)
    assert (f(after) - f(toy)) / STEP == pytest.approx(toy.kernel, rel=1e-3, abs=1e-3)


@pytest.mark.parametrize("toy", TOYS)
def test_removal_is_exact_for_the_linear_weight_and_first_order_for_the_other(toy: Toy) -> None:
    assert toy.change(1) == pytest.approx(-f(toy)) and toy.change(2) == pytest.approx(-f(toy))
    assert toy.first_order(2) == pytest.approx(toy.change(2))
    small = toy._replace(w1=1e-3)
    assert small.first_order(1) == pytest.approx(small.change(1), rel=1e-4)
    assert abs(toy.first_order(1)) <= abs(toy.change(1)) + 1e-12  # tanh is concave away from zero


def test_without_gradient_there_is_no_step() -> None:
    nothing = Toy(0.0, 0.0, 1.0)
    assert nothing.step(1.0) == nothing and nothing.kernel == 0
    assert "0.00" in kernel_map(nothing, 1.0).takeaway
    assert removal(nothing).table["true change of f"].abs().max() == 0


def test_the_map_shows_the_formula_and_the_step() -> None:
    toy = Toy(1.6, 1.2, 0.7)
    chart = kernel_map(toy, 0.5)
    contour = chart.figure.data[0]
    row, column = 50, 20
    assert contour.z[row, column] == pytest.approx(
        f(Toy(float(contour.x[column]), float(contour.y[row]), 0.7)), abs=1e-5
    )
    assert float(output(1.6, 1.2, 0.7)) == pytest.approx(f(toy))
    assert f"{f(toy.step(0.5)) - f(toy):.2f}" in chart.title and f"{0.5 * toy.kernel:.2f}" in chart.title
    gradient, step = (trace for trace in chart.figure.data if trace.type == "scatter" and len(trace.x) == 2)
    across, up = (np.diff(gradient.x)[0], np.diff(gradient.y)[0])
    assert up / across == pytest.approx(toy.gradient[1] / toy.gradient[0])
    assert math.hypot(across, up) == pytest.approx(0.5 * math.sqrt(2))
    assert (np.diff(step.x)[0], np.diff(step.y)[0]) == pytest.approx((0.5, 0.5))


def test_a_saturated_network_is_called_so() -> None:
    assert "saturated" in removal(Toy(3.0, 1.0, 1.5)).title
    assert "accurate" in removal(Toy(0.1, 1.0, 0.5)).title
    ends = [trace.y[-1] for trace in removal(Toy(0.8, 1.2, 1.0)).figure.data if trace.name == "w1 shrinks"]
    assert ends == pytest.approx([0.0])
