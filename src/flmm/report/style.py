"""How figures look: readable in print, and by people with any colour vision."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

from PIL import Image

from flmm.answers.palette import COLOURS, HEAT, hexadecimal
from flmm.atomic_write import whole_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

WIDTH = 7.2
"""Inches, of a page's two columns."""
INK = "#26262b"
FAINT = "#d8d8dc"
PALETTE = tuple(hexadecimal(colour) for colour in COLOURS)
THINGS, STUFF, ALL = PALETTE[1], PALETTE[0], "#55555c"
PART_COLOURS = {"things": THINGS, "stuff": STUFF, "all": ALL}
_SETTINGS: dict[str, object] = {
    "font.size": 8.5, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.labelsize": 8.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#7a7a80", "axes.labelcolor": INK, "text.color": INK,
    "xtick.color": INK, "ytick.color": INK, "axes.linewidth": 0.7, "xtick.major.width": 0.7,
    "ytick.major.width": 0.7, "legend.frameon": False, "figure.dpi": 100, "savefig.dpi": 200,
    "axes.axisbelow": True, "axes.titlepad": 8,
}  # fmt: skip


@contextmanager
def figure(file: Path, height: float, photographs: bool = False) -> "Iterator[Figure]":
    """A figure of so many inches, written when the block ends.

    One without photographs has a palette, which makes its file several times smaller.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # Its stub lists all names as literals, which a dictionary of settings does not have.
    rc_context = cast(
        "Callable[[dict[str, object]], AbstractContextManager[None]]", pyplot.rc_context
    )

    with rc_context(_SETTINGS):
        drawn = pyplot.figure(figsize=(WIDTH, height), layout="constrained")
        try:
            yield drawn
            with whole_file(file) as place:
                whole = BytesIO()
                drawn.savefig(whole, format="png", dpi=140 if photographs else 200)
                pixels = Image.open(whole).convert("RGB")
                if not photographs:
                    pixels = pixels.quantize(256)
                pixels.save(place, format="png", optimize=True)
        finally:
            pyplot.close(drawn)


def heat() -> "Colormap":
    """From dark to bright, so that a print in grey says the same."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", [hexadecimal(colour) for colour in HEAT])


def light_grid(axes: "Axes", axis: str) -> None:
    """Faint lines across one axis, without ticks."""
    axes.grid(True, axis="x" if axis == "x" else "y", color=FAINT, linewidth=0.6)
    axes.tick_params(length=0)
