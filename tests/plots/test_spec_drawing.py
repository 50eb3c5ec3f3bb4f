import itertools
from xml.etree import ElementTree

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

import autofusion_jax as af
from autofusion_jax.plots.spec_drawing import draw_perm_spec, perm_spec_figure
from autofusion_jax.plots.spec_layout import COLORS, lay_out
from autofusion_jax.symmetry.axes import Axis, Concat, Factor, Family, fixed_axis
from autofusion_jax.symmetry.spec import Group, LeafSpec, PermSpec
from tests.conftest import MODELS, params_for
from tests.symmetry.zoo import CASES


def inferred(name):
    apply_fn, params, x = CASES[name].make()
    return af.infer_perm_spec(apply_fn, params, x, check=False)


def attention(num_layers=3):
    """Stacked layers of attention: a fused QKV leaf with heads nested in layers, and a family."""
    stack, heads = Factor(num_layers, stack="layers/qkv.stack"), Factor(4, "heads")
    qk, v, d = Factor(6, "head_dim"), Factor(6, "head_dim_2"), Factor(8, "embed")
    stacked = Axis(((stack,),))
    fused = Axis(((heads, qk), (heads, qk), (heads, v)), "out")
    family = Axis(
        ((heads, Concat(((qk,), (Factor(2),))), Family("layers/qkv.stack", ((qk,), (v,), (v,)))),), "out"
    )
    leaves = (
        LeafSpec("embed", (fixed_axis(10), Axis(((d,),), "out"))),
        LeafSpec("layers/qkv/kernel", (stacked, Axis(((d,),), "in"), fused)),
        LeafSpec("layers/qkv/bias", (stacked, fused)),
        LeafSpec("layers/odd/kernel", (stacked, family)),
        LeafSpec("layers/out/kernel", (stacked, Axis(((heads, v),), "in"), Axis(((d,),), "out"))),
    )
    outer = "layers/qkv.stack"
    groups = [
        Group("embed", 8), Group("heads", 4, (outer,)), Group("head_dim", 6, (outer, "heads")),
        Group("head_dim_2", 6, (outer, "heads")),
    ]  # fmt: skip
    stacks = {outer: num_layers}
    return PermSpec(leaves, {g.name: g for g in groups}, stacks=stacks, notes=("a & b <c> $d$ " * 30,))


def mlp():
    model = MODELS["mlp"]
    return af.infer_perm_spec(
        model.apply, params_for(model, 0), np.zeros((2, *model.input_shape)), check=False
    )


def without_groups():
    return PermSpec((LeafSpec("w", (fixed_axis(3), fixed_axis(4))), LeafSpec("b/c", ())), {})


SPECS = {
    "mlp": mlp,
    "no_groups": without_groups,
    "no_leaves": lambda: PermSpec((), {}),
    "attention": attention,
    **{name: (lambda name=name: inferred(name)) for name in (
        "resnet20_group_norm", "resnet20_padded_both_sides", "densenet", "nested_twice", "reshape_no_op",
        "square_on_hidden",
    )},
}  # fmt: skip


SLOW = {"densenet", "nested_twice", "reshape_no_op", "resnet20_group_norm", "square_on_hidden"}


@pytest.fixture(
    scope="module",
    params=[pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in SPECS],
)
def spec(request):
    return SPECS[request.param]()


def texts(root, tag):
    return [element.text or "" for element in root.iter(f"{{http://www.w3.org/2000/svg}}{tag}")]


def test_the_svg_names_every_leaf_and_group(spec, tmp_path):
    draw_perm_spec(spec, tmp_path / "s.svg", title="a title")
    root = ElementTree.parse(tmp_path / "s.svg").getroot()
    shown, tooltips = texts(root, "text"), " ".join(texts(root, "title"))
    assert "a title" in shown
    for name in (*spec.groups, *(layer.rpartition("/")[2] for layer in spec.layers)):
        assert name in shown
    for leaf in spec.leaves:
        assert f"{leaf.path} {leaf.shape}: [" in tooltips
        assert leaf.path.rpartition("/")[2] in shown and ("×".join(map(str, leaf.shape)) or "scalar") in shown
    assert [p.name for p in tmp_path.iterdir()] == ["s.svg"]


def test_the_png_is_a_picture(spec, tmp_path):
    draw_perm_spec(spec, tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as image:
        assert image.format == "PNG" and image.width > 500 and len(image.getcolors(1 << 24)) > 5
    assert [p.name for p in tmp_path.iterdir()] == ["s.png"]


def test_no_text_overlaps_another_or_leaves_the_page(spec):
    figure = perm_spec_figure(spec)
    renderer = FigureCanvasAgg(figure).get_renderer()
    drawn = [text for text in figure.axes[0].texts if text.get_text().strip()]
    boxes = np.array([text.get_window_extent(renderer).extents for text in drawn])
    low, high = boxes[:, :2] + 1, boxes[:, 2:] - 1  # extents are rounded up to pixels
    assert (low >= 0).all() and (high <= figure.bbox.size).all()
    overlap = (low[:, None] < high[None]).all(-1) & (low[None] < high[:, None]).all(-1)
    np.fill_diagonal(overlap, False)
    assert [(drawn[i].get_text(), drawn[j].get_text()) for i, j in np.argwhere(overlap)] == []


def test_lanes_span_the_layers_that_carry_a_group_and_never_cross(spec):
    layout = lay_out(spec, "t")
    spans = {
        group: [number for number, row in enumerate(layout.rows) if group in row.roles]
        for group in layout.lanes
    }
    assert set(spans) == set(spec.groups)
    for a, b in itertools.combinations(spans, 2):
        if layout.lanes[a] == layout.lanes[b]:
            assert spans[a][-1] < spans[b][0] or spans[b][-1] < spans[a][0]


def test_colours_of_a_layer_differ_while_there_are_enough(spec):
    layout = lay_out(spec, "t")
    for row in layout.rows:
        if len(row.roles) <= len(COLORS) // 2:
            assert len({layout.colors[group] for group in row.roles}) == len(row.roles)


def test_cells_spell_out_an_axis():
    kernel = lay_out(attention(), "t").rows[1].boxes[0]
    assert "".join(piece.text for piece in kernel.pieces) == "3[qkv.stack]84×6+4×6+4×6"
    odd = lay_out(attention(), "t").rows[2].boxes[0]
    assert "".join(piece.text for piece in odd.pieces) == "3[qkv.stack]4×(6+2)×{6|6|6}"


def test_a_long_network_stays_within_the_size_of_a_picture():
    leaves = [LeafSpec(f"layer_{i}/kernel", (fixed_axis(3), fixed_axis(4))) for i in range(320)]
    figure = perm_spec_figure(PermSpec(tuple(leaves), {}))
    assert figure.dpi * figure.get_figheight() <= 16_000


def test_the_same_spec_gives_the_same_file(tmp_path):
    for name in ("a.svg", "b.svg"):
        draw_perm_spec(attention(), tmp_path / name)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_other_formats_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"path must end in \.png or \.svg; got .*s\.pdf"):
        draw_perm_spec(without_groups(), tmp_path / "s.pdf")
