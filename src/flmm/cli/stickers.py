"""``flmm stickers``: the embedded model's training and evaluation."""

import os
from pathlib import Path
from typing import Annotated

import typer

from flmm.cli.console import show_progress
from flmm.cli.options import require_packages

app = typer.Typer(help="The embedded world and model: make it, measure it.")


@app.command()
def build(
    out: Annotated[
        Path, typer.Option(help="Where scenes, checkpoints and the finished model go.")
    ] = Path("build/stickers"),
) -> None:
    """Train the embedded model from scratch; called again, go on where it stopped."""
    require_packages("train", "accelerate")
    from flmm.embedded_model.recipe.build import TrainingBudget, build_model

    with show_progress() as on_progress:
        folder = build_model(out, TrainingBudget(), on_progress)
    typer.echo(f"the model is in {folder}")


@app.command()
def calibrate(
    model: Annotated[
        Path, typer.Argument(help="A folder `embedded` made by `flmm stickers build`.")
    ],
) -> None:
    """Fit the head's scores anew; its masks stay."""
    from flmm.embedded_model.recipe.score_calibration import SCORE_SCENES, calibrate_scores

    with show_progress() as on_progress:
        calibrate_scores(model, SCORE_SCENES, on_progress)
    typer.echo(f"the calibration is in {model / 'head' / 'config.json'}")


@app.command()
def evaluate(
    scenes: Annotated[int, typer.Option(min=1, help="Held-out scenes to measure on.")] = 1000,
    model: Annotated[
        Path | None, typer.Option(help="A folder `embedded` made by `flmm stickers build`.")
    ] = None,
    artwork: Annotated[
        list[Path] | None,
        typer.Option(help="Other stickers (scripts/fetch_stickers.py); again for more."),
    ] = None,
    photographs: Annotated[
        Path | None, typer.Option(help="A folder of pictures to lay stickers on, to measure too.")
    ] = None,
    larger: Annotated[
        bool, typer.Option("--larger", help="Measure too on scenes of twice the area and things.")
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="How many measure side by side.")
    ] = os.cpu_count() or 1,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document instead.")] = False,
) -> None:
    """Measure captions, answers and masks on scenes that training never saw."""
    from flmm.embedded_model.evaluate import measure
    from flmm.embedded_model.evaluation_settings import (
        DEFAULT_SETTING,
        LARGER_SETTING,
        artwork_setting,
        photograph_setting,
    )
    from flmm.embedded_model.evaluation_tables import print_reports
    from flmm.user_input import EMBEDDED_MODEL_FOLDER

    settings = [DEFAULT_SETTING, *(artwork_setting(folder) for folder in artwork or ())]
    if photographs is not None:
        settings.append(photograph_setting(photographs))
    if larger:
        settings.append(LARGER_SETTING)
    scene_counts = [(setting, scenes) for setting in settings]
    folder = model or EMBEDDED_MODEL_FOLDER
    with show_progress() as on_progress:
        reports = measure(folder, scene_counts, on_progress, processes=processes)
    print_reports(reports, as_json)
