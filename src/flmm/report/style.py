"""The style of figures: readable in print, and with any colour vision."""

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
"""Inches: two columns of a page."""
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
    """Yield a figure of ``height`` inches, and write it as PNG at the end of the block.

    Without photographs, the file has a palette, which makes it several times smaller.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    # The type stub takes literal names only, which a dictionary of settings lacks.
    rc_context = cast(
        "Callable[[dict[str, object]], AbstractContextManager[None]]", pyplot.rc_context
    )

    with rc_context(_MATPLOTLIB_SETTINGS):
        figure = pyplot.figure(figsize=(PAGE_WIDTH, height), layout="constrained")
        try:
            yield figure
            with atomic_write(file) as path:
                buffer = BytesIO()
                figure.savefig(buffer, format="png", dpi=140 if photographs else 200)
                pixels = Image.open(buffer).convert("RGB")
                if not photographs:
                    pixels = pixels.quantize(256)
                pixels.save(path, format="png", optimize=True)
        finally:
            pyplot.close(figure)


def heatmap_colours() -> "Colormap":
    """Return a colormap from dark to bright, readable in greyscale print."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("heat", [to_hex(colour) for colour in HEATMAP_COLOURS])


def draw_grid(axes: "Axes", axis: str) -> None:
    """Draw faint grid lines across one axis, and remove ticks."""
    axes.grid(True, axis="x" if axis == "x" else "y", color=LIGHT_GREY, linewidth=0.6)
    axes.tick_params(length=0)
