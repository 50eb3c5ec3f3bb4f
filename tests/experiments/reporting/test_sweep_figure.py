"""Figures of accuracy against a setting: which part of the axis they show, and that bars stay on it."""

import pytest

from reporting.sweep_figure import SweepSeries, sweep_figure


def drawn(*values, error=0.0, levels=None):
    series = SweepSeries("ours", list(range(len(values))), list(values), [error] * len(values))
    (axes,) = sweep_figure([series], title="t", x_title="x", y_title="y", levels=levels).axes
    return axes


@pytest.mark.parametrize(
    ("values", "error", "levels", "lowest"),
    [
        ((88.0, 95.0), 0.0, None, 80),
        ((88.0, 95.0), 9.0, None, 70),  # its bar counts
        ((88.0, 95.0), 0.0, {"interpolation": 61.0}, 60),
        ((88.0, 95.0), 0.0, {"interpolation": 12.0}, 0),
        ((30.0, 95.0), 0.0, None, 0),
    ],
)
def test_the_axis_starts_at_zero_or_the_ten_below_all_values(values, error, levels, lowest):
    assert drawn(*values, error=error, levels=levels).get_ylim() == (lowest, 100)


def test_bars_end_at_a_hundred_percent():
    (container,) = drawn(98.0, error=5.0).containers
    (segment,) = container.lines[2][0].get_segments()
    assert segment[:, 1].tolist() == [93.0, 100.0]
