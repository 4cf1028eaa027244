"""How figures look: readable in print, and by people with any colour vision."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, cast

from PIL import Image

from flmm.answers.palette import HEATMAP_COLOURS, PHRASE_COLOURS, to_hex
from flmm.atomic_write import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.colors import Colormap
    from matplotlib.figure import Figure

PAGE_WIDTH = 7.2
"""Inches, of a page's two columns."""
DARK_GREY = "#26262b"
LIGHT_GREY = "#d8d8dc"
PALETTE = tuple(to_hex(colour) for colour in PHRASE_COLOURS)
THINGS_COLOUR, STUFF_COLOUR, ALL_COLOUR = PALETTE[1], PALETTE[0], "#55555c"
PART_COLOURS = {"things": THINGS_COLOUR, "stuff": STUFF_COLOUR, "all": ALL_COLOUR}
_MATPLOTLIB_SETTINGS: dict[str, object] = {
    "font.size": 8.5, "axes.titlesize": 9, "axes.titleweight": "bold", "axes.titlelocation": "left",
    "axes.labelsize": 8.5, "axes.spines.top": False, "axes.spines.right": False,
    "axes.edgecolor": "#7a7a80", "axes.labelcolor": DARK_GREY, "text.color": DARK_GREY,
    "xtick.color": DARK_GREY, "ytick.color": DARK_GREY, "axes.linewidth": 0.7,
    "xtick.major.width": 0.7, "ytick.major.width": 0.7, "legend.frameon": False,
    "figure.dpi": 100, "savefig.dpi": 200,
    "axes.axisbelow": True, "axes.titlepad": 8,
}  # fmt: skip


@contextmanager
def open_figure(file: Path, height: float, photographs: bool = False) -> "Iterator[Figure]":
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

    with rc_context(_MATPLOTLIB_SETTINGS):
        drawn = pyplot.figure(figsize=(PAGE_WIDTH, height), layout="constrained")
        try:
            yield drawn
            with atomic_write(file) as place:
                whole = BytesIO()
                drawn.savefig(whole, format="png", dpi=140 if photographs else 200)
                pixels = Image.open(whole).convert("RGB")
                if not photographs:
                    pixels = pixels.quantize(256)
                pixels.save(place, format="png", optimize=True)
        finally:
            pyplot.close(drawn)


def heatmap_colours() -> "Colormap":
    """From dark to bright, so that a print in grey says the same."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", [to_hex(colour) for colour in HEATMAP_COLOURS])


def draw_grid(axes: "Axes", axis: str) -> None:
    """Faint lines across one axis, without ticks."""
    axes.grid(True, axis="x" if axis == "x" else "y", color=LIGHT_GREY, linewidth=0.6)
    axes.tick_params(length=0)
