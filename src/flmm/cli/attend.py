"""``flmm attend``: the attention of each word of an answer to the picture."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flmm.cli.console import print_json, replace_control_characters, show_spinner
from flmm.cli.options import (
    DeviceOption,
    DtypeOption,
    ImageArgument,
    JsonOption,
    LMMOption,
    MaxNewTokensOption,
    ModelOption,
    OutOption,
    find_output_path,
    load_lmm_alone,
    warn_about_other_pictures,
)
from flmm.user_input import check_phrases, check_text

if TYPE_CHECKING:
    from flmm.grounding.attention_view import AttentionView


def attend(
    image: ImageArgument,
    question: Annotated[str, typer.Argument(metavar="QUESTION", show_default=False)],
    answer: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            show_default=False,
            help="A caption or answer to trace; by default the model generates its own.",
        ),
    ] = None,
    word: Annotated[
        list[str] | None,
        typer.Option(
            "--word",
            metavar="WORD",
            show_default=False,
            help="A word or phrase of the answer; may be repeated. By default every word.",
        ),
    ] = None,
    layer: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", show_default=False, help="Show this layer too, from 0."),
    ] = None,
    head: Annotated[
        int | None,
        typer.Option(metavar="NUMBER", show_default=False, help="Show this head too, from 0."),
    ] = None,
    max_new_tokens: MaxNewTokensOption = 256,
    model: ModelOption = None,
    lmm: LMMOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    out: OutOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show where in a picture the model looks with each word."""
    from flmm.pictures.reading import read_picture

    picture = read_picture(image)
    check_text("question", question)
    words = check_phrases(word) if word else None
    if answer is not None:
        check_text("answer", answer)
    figure = find_output_path(image, out, as_json, "attend")
    grounder = load_lmm_alone(model, lmm, device, dtype)
    warn_about_other_pictures(grounder, picture)
    with show_spinner("looking at the picture"):
        view = grounder.attend(
            picture, question, words, answer=answer, max_new_tokens=max_new_tokens
        )
    content = view.to_dict(layer, head) if as_json else None
    if figure is not None:
        view.save(figure, layer, head)
    if content is not None:
        print_json(content)
    else:
        _print_attention_view(view, figure)


def _print_attention_view(view: "AttentionView", figure: Path | None) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(highlight=False)
    console.print(Text(replace_control_characters(view.text)), soft_wrap=not console.is_terminal)
    console.print()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("word", overflow="fold")
    table.add_column("on the picture", justify="right")
    table.add_column("most, layer", justify="right")
    table.add_column("head", justify="right")
    for word in view.words:
        on_picture = word.maps.sum(axis=(2, 3))
        layer, head = divmod(int(on_picture.argmax()), on_picture.shape[1])
        table.add_row(
            Text(replace_control_characters(word.text)),
            f"{on_picture.mean():.0%}",
            str(layer),
            str(head),
        )
    console.print(table)
    console.print()
    if figure is not None:
        console.print(f"Figure: {figure}", markup=False, soft_wrap=True)
