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
    MaskThresholdOption,
    MinMaskRegionAreaOption,
    MinScoreOption,
    ModelOption,
    OutOption,
    RefineOption,
    SamOption,
    check_mask_options,
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
    """Find what each phrase refers to in a picture."""
    from flmm.pictures.reading import read_picture

    picture = read_picture(image)
    checked_phrases = check_phrases(phrases)
    masks = check_mask_options(refine, mask_threshold, min_score, min_mask_region_area)
    overlay = find_output_path(image, out, as_json, "segment")
    grounder = load_grounder(model, lmm, sam, device, dtype)
    warn_about_other_pictures(grounder, picture)
    with show_spinner("looking at the picture"):
        answer = grounder.segment(picture, checked_phrases, **masks)
    show_answer(answer, overlay, as_json)
