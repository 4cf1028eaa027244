"""``flmm chat``: an answer about a picture, with the masks of its phrases."""

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
    MaxNewTokensOption,
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


def chat(
    image: ImageArgument,
    question: Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)],
    phrase: PhraseOption = None,
    phrases_from: PhrasesFromOption = None,
    max_new_tokens: MaxNewTokensOption = 256,
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
    """Ask about a picture and see where the answer's words are in it."""
    from flmm.pictures.reading import read_picture

    picture = read_picture(image)
    check_text("question", question)
    phrases = check_phrases(phrase) if phrase else None
    masks = check_mask_options(refine, mask_threshold, min_score, min_mask_region_area)
    overlay = find_output_path(image, out, as_json, "chat")
    grounder = load_grounder(model, lmm, sam, device, dtype)
    warn_about_other_pictures(grounder, picture)
    with show_spinner("looking at the picture"):
        answer = grounder.chat(
            picture,
            question,
            phrases,
            max_new_tokens=max_new_tokens,
            phrase_source=phrases_from,
            **masks,
        )
    show_answer(answer, overlay, as_json)
