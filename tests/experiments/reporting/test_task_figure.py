"""Figures of several tasks: what stands where."""

import numpy as np

from reporting.task_figure import radar_figure, similarity_matrix_figure


def test_radar_lines_are_closed_and_an_axis_is_a_task():
    lines = {"one": [90.0, 50.0, 70.0], "two": [10.0, 20.0, 30.0]}
    (axes,) = radar_figure(lines, ["a", "b", "c"], title="t").axes
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    for line, (label, values) in zip(axes.get_lines(), lines.items()):
        assert line.get_label() == label and list(line.get_ydata()) == [*values, values[0]]
        np.testing.assert_allclose(line.get_xdata(), 2 * np.pi * np.array([0, 1, 2, 0]) / 3)


def test_every_cell_of_a_matrix_says_its_number_in_a_colour_that_reads():
    matrix = np.array([[1.0, -0.25], [-0.25, 1.0]])
    axes = similarity_matrix_figure(matrix, ["a", "b"], title="t", label="cosine").axes[0]
    texts = {text.get_position(): (text.get_text(), text.get_color()) for text in axes.texts}
    assert texts == {
        (0, 0): ("1.00", "black"), (1, 1): ("1.00", "black"),
        (1, 0): ("-0.25", "white"), (0, 1): ("-0.25", "white"),
    }  # fmt: skip
    assert axes.images[0].get_clim() == (-0.25, 1)
