"""`flmm stickers`: make the embedded model, and measure it."""

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="The embedded world and model: make it, measure it.")


@app.command()
def build(
    out: Annotated[
        Path, typer.Option(help="Where scenes, checkpoints and the finished model go.")
    ] = Path("build/stickers"),
) -> None:
    """Train the embedded model from scratch; called again, go on where it stopped."""
    from flmm.stickers.recipe.build import Budget
    from flmm.stickers.recipe.build import build as build_model

    typer.echo(f"the model is in {build_model(out, Budget())}")


@app.command()
def evaluate(
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes to measure on.")] = 500,
    model: Annotated[
        Path | None, typer.Option(help="A folder `embedded` made by `flmm stickers build`.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead.")] = False,
) -> None:
    """Measure captions, answers and masks on scenes that training never saw."""
    from flmm.stickers.kinds import EMBEDDED_FOLDER
    from flmm.stickers.report import evaluate_embedded, print_report

    print_report(evaluate_embedded(scenes, model or EMBEDDED_FOLDER), as_json)
