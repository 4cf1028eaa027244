"""``flmm models --check``: the checks of a real LMM, printed one a line."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from flmm.cli.console import print_json, show_progress
from flmm.cli.options import load_lmm_alone

if TYPE_CHECKING:
    from PIL import Image

_PICTURE = "demo.png"
"""The bundled picture that is cut to the checked shapes."""
_LABELS = {"ok": "ok", "not ok": "NOT OK", "not checked": "–"}


def check_lmm(
    name: str,
    pictures: Sequence[Path],
    out: Path | None,
    device: str | None,
    dtype: str | None,
    as_json: bool,
) -> None:
    """Load an LMM, check it, save the figure and print what was found out.

    Raises:
        InputError: the LMM is refused, or a picture or ``out`` cannot be used.
        Exit: with code 1 if a check finds a mistake.
    """
    from flmm.answers.image_files import check_output_path, save_image

    if out is None and not as_json:
        out = Path("check-flmm.png")
    if out is not None:
        check_output_path(out)
    shown = _open_pictures(pictures)
    adapter = load_lmm_alone(None, name, device, dtype).adapter
    from flmm.model_check.run import check_model

    with show_progress() as on_progress:
        found = check_model(adapter, shown, on_progress)
    if found.figure is None:
        out = None
    elif out is not None:
        save_image(found.figure, out)
    if as_json:
        print_json(
            {
                "lmm": name,
                "model_type": adapter.model_type,
                "adapter": type(adapter).__name__,
                "dtype": str(adapter.dtype).removeprefix("torch."),
                "layers": adapter.layers,
                "heads": adapter.heads,
                "passed": found.passed,
                "checks": [asdict(outcome) for outcome in found.outcomes],
                "pictures": [
                    {
                        "size": [picture.height, picture.width],
                        "views": [
                            {**asdict(view.geometry), "tokens": view.token_positions.tolist()}
                            for view in views
                        ],
                    }
                    for picture, views in zip(shown, found.views, strict=True)
                ],
                "figure": None if out is None else str(out),
            }
        )
    else:
        print(f"{name}: {adapter.model_type}, read by {type(adapter).__name__}")
        for outcome in found.outcomes:
            print(f"{_LABELS[outcome.status]:6}  {outcome.check}: {outcome.detail}")
        if out is not None:
            print(f"Figure: {out}")
    if not found.passed:
        raise typer.Exit(1)


def _open_pictures(paths: Sequence[Path]) -> "list[Image.Image]":
    """Return the pictures, or the bundled one in every checked shape."""
    from importlib.resources import files

    from PIL import ImageOps

    from flmm.model_check.run import CHECKED_SIZES
    from flmm.pictures.reading import read_picture

    if paths:
        return [read_picture(path) for path in paths]
    bundled = files("flmm").joinpath("assets", "pictures", _PICTURE).read_bytes()
    return [ImageOps.fit(read_picture(bundled), size) for size in CHECKED_SIZES]
