"""``flmm chat``: an answer about a picture, with the masks of its phrases."""

from pathlib import Path
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
from flmm.user_input import check_phrases, check_seed, check_temperature


def chat(
    image: ImageArgument,
    question: Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)],
    phrase: PhraseOption = None,
    phrases_from: PhrasesFromOption = None,
    further_image: Annotated[
        list[Path] | None,
        typer.Option(
            "--image",
            metavar="IMAGE",
            show_default=False,
            help="A further picture, shown after the first; may be repeated.",
        ),
    ] = None,
    system: Annotated[
        str | None,
        typer.Option(metavar="TEXT", show_default=False, help="The system prompt."),
    ] = None,
    history: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="The messages before the question: a JSON list of"
            ' {"role": "user" or "assistant", "content": "…"}.',
        ),
    ] = None,
    temperature: Annotated[
        float,
        typer.Option(
            callback=check_temperature,
            metavar="NUMBER",
            help="0 takes the likeliest words; above, others are sampled.",
        ),
    ] = 0.0,
    seed: Annotated[
        int | None,
        typer.Option(
            callback=check_seed,
            metavar="NUMBER",
            show_default=False,
            help="Of sampling; the same one gives the same answer.",
        ),
    ] = None,
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
    from flmm.grounding.conversation import build_conversation, read_messages
    from flmm.pictures.reading import read_picture

    files = [image, *(further_image or ())]
    pictures = [read_picture(file) for file in files]
    messages = [] if history is None else read_messages(history)
    build_conversation(pictures, question, messages, system)
    phrases = check_phrases(phrase) if phrase else None
    masks = check_mask_options(refine, mask_threshold, min_score, min_mask_region_area)
    overlay = find_output_path(files, out, as_json, "chat")
    grounder = load_grounder(model, lmm, sam, device, dtype)
    warn_about_other_pictures(grounder, *pictures)
    with show_spinner("looking at the picture"):
        answer = grounder.chat(
            pictures,
            question,
            phrases,
            history=messages,
            system=system,
            temperature=temperature,
            seed=seed,
            max_new_tokens=max_new_tokens,
            phrase_source=phrases_from,
            **masks,
        )
    show_answer(answer, overlay, as_json)
