"""``flmm segment``: the masks of what phrases refer to."""

from typing import Annotated

import typer

from flmm.cli.console import show_answer, show_spinner
from flmm.cli.options import (
    DeviceOption,
    DtypeOption,
    ImageArgument,
    JsonOption,
    LMMOption,
    ModelOption,
    OutOption,
    RefineOption,
    SamOption,
    find_output_path,
    load_grounder,
    warn_about_other_pictures,
)
from flmm.user_input import check_phrases


def segment(
    image: ImageArgument,
    phrases: Annotated[
        list[str],
        typer.Argument(
            metavar="PHRASE…", show_default=False, help='Such as "the cat on the left".'
        ),
    ],
    refine: RefineOption = True,
    model: ModelOption = None,
    lmm: LMMOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what each phrase refers to in a picture."""
    from flmm.pictures.reading import read_picture

    picture = read_picture(image)
    checked_phrases = check_phrases(phrases)
    overlay = find_output_path(image, out, as_json)
    grounder = load_grounder(model, lmm, sam, device, dtype)
    warn_about_other_pictures(grounder, picture)
    with show_spinner("looking at the picture"):
        answer = grounder.segment(picture, checked_phrases, refine=refine)
    show_answer(answer, overlay, as_json)
