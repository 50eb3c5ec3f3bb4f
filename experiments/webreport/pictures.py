"""The image files of the page: permutation matrices, and the images that runs left."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from PIL import Image

from reporting.figures import visible_entries
from reporting.tables import title_of
from webreport.collect import FigureRun, RunFolder, read_matrices
from webreport.summary import PLAIN

LEVELS = 64
"""Colours of a matrix's image: enough for the eye, few enough for small files."""
DRAWN_HERE = ("interpolation.png", "permutations.png")
"""Images of a run that the page has charts and browsers for, where it has their numbers."""
WIDE = 1.6
KINDS = ("method", "layer", "sample")


@dataclasses.dataclass(frozen=True)
class Picture:
    """One image of the page.

    Attributes:
        file: where it is, relative to the page.
        alt: what it shows, for those who do not see it.
        labels: what it is of, by `KINDS`; those that it has.
        size: width and height in pixels.
        note: a sentence under it.
        crisp: whether its pixels are data and must stay sharp when enlarged.
    """

    file: str
    alt: str
    labels: Mapping[str, str]
    size: tuple[int, int]
    note: str = ""
    crisp: bool = False

    @property
    def title(self) -> str:
        """What it is of, in one phrase."""
        return ", ".join(self.labels.values())

    @property
    def wide(self) -> bool:
        """Whether it needs the width of the page."""
        return self.size[0] > WIDE * self.size[1]


def choices(pictures: Sequence[Picture]) -> dict[str, list[str]]:
    """Kind of label -> its values in order of appearance, for the kinds with several."""
    found = {}
    for kind in KINDS:
        values = list(dict.fromkeys(p.labels[kind] for p in pictures if kind in p.labels))
        if len(values) > 1:
            found[kind] = values
    return found


def matrix_pictures(run: RunFolder, folder: Path) -> list[Picture]:
    """Draw the permutation matrices of a run's first pair into a folder of images."""
    pictures = []
    for (method, variant), group, values in read_matrices(run):
        if method in PLAIN:
            continue  # the identity
        path = folder / f"matrix{len(pictures)}.png"
        title = title_of(method, variant)
        image = _draw(values)
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, optimize=True)
        kept = 100 * float(np.mean(values.argmax(1) == np.arange(len(values))))
        sure = float(values.max(1).mean())
        note = (
            f"{len(values)} units; {kept:.0f} % stay in place; largest weight of a row {sure:.2f} on average"
        )
        alt = f"Permutation matrix of {group} by {title}: {note}."
        pictures.append(
            Picture(_address(path), alt, {"method": title, "layer": group}, image.size, note, crisp=True)
        )
    return pictures


def _draw(values: np.ndarray) -> Image.Image:
    """A matrix on a square-root scale, with matplotlib's cividis as its palette."""
    scaled = np.sqrt(np.clip(visible_entries(np.nan_to_num(values), dot=1), 0, 1))
    image = Image.fromarray(np.rint(scaled * (LEVELS - 1)).astype(np.uint8), "P")
    colours = matplotlib.colormaps["cividis"](np.linspace(0, 1, LEVELS), bytes=True)[:, :3]
    image.putpalette(colours.tobytes())
    return image


def _address(path: Path) -> str:
    """Where an image is, from the page: in a folder of the folder of images."""
    return "/".join(path.parts[-3:])


def other_pictures(source: Path, name: str, folder: Path, *, drawn: bool) -> list[Picture]:
    """Copy the images that a run left, but those whose numbers the page shows itself (`drawn`)."""
    pictures = []
    for path in sorted(source.glob("*.png")):
        if not (drawn and path.name in DRAWN_HERE):
            alt = f"{path.stem.replace('_', ' ').capitalize()} of {name}, as the run drew it."
            pictures.append(_copy(path, folder, alt, {}))
    return pictures


def panel_pictures(figure: FigureRun, folder: Path) -> list[Picture]:
    """Copy the images of a reproduced figure."""
    return [
        _copy(figure.folder / panel["file"], folder, panel["alt"], _labels(panel))
        for panel in figure.data["panels"]
    ]


def _labels(panel: Mapping[str, Any]) -> dict[str, str]:
    labels = {kind: str(panel[kind]) for kind in KINDS if panel.get(kind) is not None}
    return labels | {"method": title_of(labels["method"], None)} if "method" in labels else labels


def _copy(path: Path, folder: Path, alt: str, labels: Mapping[str, str]) -> Picture:
    folder.mkdir(parents=True, exist_ok=True)
    copied = Path(shutil.copyfile(path, folder / path.name))
    with Image.open(copied) as image:
        return Picture(_address(copied), alt, labels, image.size)
