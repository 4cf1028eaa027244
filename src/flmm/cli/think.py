"""``flmm think``: an answer after a closer look at a part of the picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flmm.cli.console import print_json, replace_control_characters, show_spinner
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
    RefineOption,
    SamOption,
    check_mask_options,
    find_output_path,
    load_grounder,
    warn_about_other_pictures,
)
from flmm.user_input import check_text

if TYPE_CHECKING:
    from flmm.grounding.chain_of_thought import Thought


def think(
    image: ImageArgument,
    question: Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)],
    locate: Annotated[
        Literal["answer", "question"],
        typer.Option(
            metavar="WHERE", help="Whose words are located: of the first answer, or the question."
        ),
    ] = "answer",
    crop: Annotated[
        Literal["box", "mask", "random"],
        typer.Option(
            metavar="WHAT",
            help="Look at the mask's box, at the mask alone, or (a control) at a random box.",
        ),
    ] = "box",
    margin: Annotated[
        float, typer.Option(min=0, metavar="SHARE", help="Of the box, added on each side.")
    ] = 0.25,
    seed: Annotated[int, typer.Option(min=0, metavar="NUMBER", help="Of the random box.")] = 0,
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
    """Locate what matters in a picture, look at it closer, and answer."""
    from flmm.pictures.reading import read_picture

    picture = read_picture(image)
    check_text("question", question)
    masks = check_mask_options(refine, mask_threshold, min_score, min_mask_region_area)
    figure = find_output_path(image, out, as_json, "think")
    grounder = load_grounder(model, lmm, sam, device, dtype)
    warn_about_other_pictures(grounder, picture)
    with show_spinner("looking at the picture, twice"):
        thought = grounder.think(
            picture,
            question,
            locate=locate,
            crop=crop,
            margin=margin,
            seed=seed,
            max_new_tokens=max_new_tokens,
            **masks,
        )
    if figure is not None:
        thought.save(figure)
    if as_json:
        print_json({**thought.to_dict()})
    else:
        _print_thought(thought, figure)


def _print_thought(thought: "Thought", figure: Path | None) -> None:
    from rich.console import Console

    box = ", ".join(map(str, thought.box))
    located = f"{thought.located.text!r}, {thought.options.crop}" if thought.located else "nothing"
    lines = [f"Located: {located}; looked again at {box}"]
    if thought.located is None:
        lines = ["Located: nothing; looked again at the whole picture"]
    if thought.options.locate == "answer":
        lines.insert(0, f"Before: {thought.first.text}")
    lines.append(f"After:  {thought.answer.text}")
    if figure is not None:
        lines.append(f"Figure: {figure}")
    console = Console(highlight=False)
    for line in lines:
        console.print(replace_control_characters(line), markup=False, soft_wrap=True)
