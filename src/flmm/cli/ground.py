"""``flmm ground``: the masks of a text about a picture that somebody else wrote."""

from typing import Annotated

import typer

from flmm.cli.console import show_answer, show_spinner
from flmm.cli.options import (
    DeviceOption,
    DtypeOption,
    ImageArgument,
    JsonOption,
    LMMOption,
    MaskThresholdOption,
    MinMaskRegionAreaOption,
    MinScoreOption,
    ModelOption,
    OutOption,
    PhraseOption,
    PhrasesFromOption,
    RefineOption,
    SamOption,
    check_mask_options,
    find_output_path,
    load_grounder,
    warn_about_other_pictures,
)
from flmm.user_input import check_phrases, check_text


def ground(
    image: ImageArgument,
    text: Annotated[
        str,
        typer.Argument(
            metavar="TEXT", show_default=False, help='A caption, such as "A cat on grass."'
        ),
    ],
    phrase: PhraseOption = None,
    phrases_from: PhrasesFromOption = None,
    question: Annotated[
        str | None,
        typer.Option(
            metavar="QUESTION",
            show_default=False,
            help="What the text answers; by default the head's question for a caption, or flmm's.",
        ),
    ] = None,
    refine: RefineOption = True,
    mask_threshold: MaskThresholdOption = 0.5,
    min_score: MinScoreOption = 0.0,
    min_mask_region_area: MinMaskRegionAreaOption = 0,
    model: ModelOption = None,
    lmm: LMMOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find what a text about a picture means in it; nothing is generated."""
    from flmm.pictures.reading import read_picture

    picture = read_picture(image)
    check_text("text", text)
    if question is not None:
        check_text("question", question)
    phrases = check_phrases(phrase) if phrase else None
    masks = check_mask_options(refine, mask_threshold, min_score, min_mask_region_area)
    overlay = find_output_path(image, out, as_json, "ground")
    grounder = load_grounder(model, lmm, sam, device, dtype)
    warn_about_other_pictures(grounder, picture)
    with show_spinner("looking at the picture"):
        answer = grounder.ground(
            picture, text, phrases, question=question, phrase_source=phrases_from, **masks
        )
    show_answer(answer, overlay, as_json)
