"""The worst phrases of a run as one HTML page with their pictures."""

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pycocotools import mask as coco

from flmm.answers.overlay import draw_mask
from flmm.answers.palette import PHRASE_COLOURS, Colour, to_hex
from flmm.atomic_write import write_file_atomically
from flmm.errors import InputError
from flmm.evaluate.results import read_rows
from flmm.evaluate.rows import PhraseRow
from flmm.pictures.reading import read_picture

MAX_PHRASES = 50
_LONGER_SIDE = 420
_PREDICTED, _TRUE = PHRASE_COLOURS[0], PHRASE_COLOURS[1]
_STYLE = f"""
:root {{ color-scheme: light dark; --ground: #fff; --card: #f4f5f7; --ink: #202124;
  --faint: #5f6368; --mark: #fde293; --mark-ink: #202124; }}
@media (prefers-color-scheme: dark) {{ :root {{ --ground: #17181b; --card: #232529;
  --ink: #e8eaed; --faint: #a6abb2; --mark: #7a5b00; --mark-ink: #fff; }} }}
* {{ box-sizing: border-box; }}
body {{ margin: 0 auto; max-width: 96rem; padding: 1rem; background: var(--ground);
  color: var(--ink); font: 1rem/1.5 system-ui, sans-serif; }}
h1 {{ font-size: 1.4rem; margin: 0 0 .25rem; }}
.sheet {{ display: grid; gap: 1rem; margin-top: 1rem;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); }}
article {{ background: var(--card); border-radius: .6rem; padding: .8rem; }}
.pair {{ display: grid; grid-template-columns: 1fr 1fr; gap: .5rem; }}
figure {{ margin: 0; }}
img {{ width: 100%; height: auto; display: block; border-radius: .3rem; }}
figcaption {{ font-size: .85rem; }}
.swatch {{ display: inline-block; width: .8em; height: .8em; border-radius: .2em; }}
.true .swatch {{ background: {to_hex(_TRUE)}; }}
.predicted .swatch {{ background: {to_hex(_PREDICTED)}; }}
.said {{ margin: .6rem 0; overflow-wrap: anywhere; white-space: pre-line; }}
mark {{ background: var(--mark); color: var(--mark-ink); border-radius: .2em; padding: 0 .15em; }}
.faint {{ color: var(--faint); font-size: .85rem; overflow-wrap: anywhere; margin: 0; }}
h2 {{ font-size: 1rem; margin: 0 0 .5rem; }}
"""


def write_worst_phrases(out: Path, max_phrases: int = MAX_PHRASES) -> Path:
    """Write the phrases of lowest refined IoU to ``out/worst.html``, one self-contained page.

    Raises:
        InputError: the run is not finished, or the page cannot be written.
    """
    rows = read_rows(out, PhraseRow)
    # Of phrases with equal IoU, such as 0, the largest come first.
    worst = sorted(rows, key=lambda row: (_iou(row), -row.true_pixels))[:max_phrases]
    file = out / "worst.html"
    write_file_atomically(file, _page(worst, len(rows)).encode(errors="replace"))
    return file


def _iou(row: PhraseRow) -> float:
    return row.refined_intersection / row.refined_union if row.refined_union else 1.0


def _page(worst: Sequence[PhraseRow], num_phrases: int) -> str:
    dataset = html.escape(worst[0].dataset) if worst else ""
    cards = "\n".join(_card(rank, row) for rank, row in enumerate(worst, 1))
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Worst phrases of {dataset}</title>
<style>{_STYLE}</style>
</head>
<body>
<h1>Worst {len(worst)} of {num_phrases} phrases of {dataset}</h1>
<p class="faint">By the IoU of the refined mask with the true one, the lowest first.</p>
<main class="sheet">
{cards}
</main>
</body>
</html>
"""


def _card(rank: int, row: PhraseRow) -> str:
    before, phrase, after = (
        html.escape(part)
        for part in (
            row.sentence[: row.start], row.sentence[row.start : row.end], row.sentence[row.end :]
        )
    )  # fmt: skip
    decoder = ""
    if row.decoder_union is not None and row.decoder_intersection is not None:
        decoder = f" · mask decoder {row.decoder_intersection / max(row.decoder_union, 1):.3f}"
    return f"""<article>
<h2>{rank}. IoU {_iou(row):.3f}{decoder}</h2>
{_pictures(row)}
<p class="said">{before}<mark>{phrase}</mark>{after}</p>
<p class="faint">box IoU {row.box_iou:.3f} · score {row.score:.2f} · pixels predicted
{row.predicted_pixels:,}, true {row.true_pixels:,} · {html.escape(row.protocol)}</p>
<p class="faint">{html.escape(row.picture)} · text {html.escape(row.text_identity)},
phrase {row.phrase}</p>
</article>"""


def _pictures(row: PhraseRow) -> str:
    try:
        picture = read_picture(row.picture)
    except InputError as error:
        return f'<p class="faint">{html.escape(str(error))}</p>'
    figures = []
    for kind, counts, colour in (
        ("true", row.true_mask, _TRUE),
        ("predicted", row.predicted_mask, _PREDICTED),
    ):
        url = _draw_data_url(picture, row, counts, colour)
        figures.append(
            f'<figure class="{kind}"><img loading="lazy" alt="{kind} mask" src="{url}">'
            f'<figcaption><span class="swatch"></span> {kind}</figcaption></figure>'
        )
    return f'<div class="pair">{"".join(figures)}</div>'


def _draw_data_url(picture: Image.Image, row: PhraseRow, counts: str, colour: Colour) -> str:
    """Return the picture with one mask on it as a data URL."""
    mask: NDArray[np.bool_] = np.asarray(
        coco.decode({"size": [row.height, row.width], "counts": counts}), dtype=np.bool_
    )
    scale = _LONGER_SIDE / max(picture.size)
    size = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    resized = picture.resize(size, Image.Resampling.LANCZOS)
    canvas = np.asarray(resized, dtype=np.float32).copy()
    draw_mask(canvas, mask, colour, line_width=2.0)
    content = io.BytesIO()
    Image.fromarray((canvas + 0.5).astype(np.uint8)).save(content, "JPEG", quality=82)
    return "data:image/jpeg;base64," + base64.b64encode(content.getvalue()).decode("ascii")
