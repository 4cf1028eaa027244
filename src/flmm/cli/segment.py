"""``flmm segment``: find what phrases refer to."""

from typing import Annotated

import typer

from flmm.cli.console import show_answer, working
from flmm.cli.options import (
    Device,
    Dtype,
    Image,
    Json,
    Lmm,
    Model,
    Out,
    Refine,
    load_grounder,
    overlay_file,
)
from flmm.user_input import check_phrases


def segment(
    image: Image,
    phrases: Annotated[
        list[str],
        typer.Argument(
            metavar="PHRASE…", show_default=False, help='Such as "the cat on the left".'
        ),
    ],
    refine: Refine = True,
    model: Model = None,
    lmm: Lmm = None,
    device: Device = None,
    dtype: Dtype = None,
    out: Out = None,
    as_json: Json = False,
) -> None:
    """Find what each phrase refers to in a picture."""
    from flmm.pictures.reading import read_picture

    picture = read_picture(image)
    checked = check_phrases(phrases)
    overlay = overlay_file(image, out, as_json)
    grounder = load_grounder(model, lmm, device, dtype)
    with working("looking at the picture"):
        answer = grounder.segment(picture, checked, refine=refine)
    show_answer(answer, overlay, as_json)
