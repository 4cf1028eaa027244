"""``flmm convert``: conversion of a checkpoint that the method's authors published."""

from pathlib import Path
from typing import Annotated

import typer

from flmm.cli.console import print_json, show_spinner
from flmm.cli.options import JsonOption
from flmm.errors import InputError


def convert(
    checkpoint: Annotated[
        Path, typer.Argument(metavar="FILE", show_default=False, help="The published .pth file.")
    ],
    lmm: Annotated[
        str,
        typer.Option(
            "--lmm",
            metavar="LMM",
            show_default=False,
            help="Hub id or folder of the LMM that it was trained on, in transformers' own form.",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FOLDER", show_default=False, help="Where the head goes; a new folder."
        ),
    ],
    revision: Annotated[
        str | None,
        typer.Option(metavar="REVISION", show_default=False, help="The LMM's, on the hub."),
    ] = None,
    sam: Annotated[
        str,
        typer.Option("--sam", metavar="SAM", help="The public SAM that it was trained with."),
    ] = "facebook/sam-vit-large",
    as_json: JsonOption = False,
) -> None:
    """Convert a head that the method's authors published; only tensors are read from the file."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"--out {str(out)!r} is there already; choose a new folder")
    if not checkpoint.is_file():
        raise InputError(f"there is no file {str(checkpoint)!r}; check the path")
    with show_spinner("converting"):
        from transformers.utils.logging import disable_progress_bar

        from flmm.head.checkpoint import save_head
        from flmm.head.conversion import convert_official_checkpoint
        from flmm.lmm.architecture import read_architecture

        disable_progress_bar()  # type: ignore[no-untyped-call]
        head = convert_official_checkpoint(
            checkpoint,
            refiner_name_or_path=sam,
            base_model_name_or_path=lmm,
            base_model_revision=revision,
            base_architecture=read_architecture(lmm, revision),
        )
        save_head(head, out)
    config = head.config
    if as_json:
        print_json({"head": str(out), "lmm": lmm, "layers": config.layers, "heads": config.heads})
        return
    print(f"Head: {out}, of {config.layers} layers and {config.heads} heads each of {lmm}")
    print(f'Try it: flmm chat PICTURE "What is in the picture?" --model {out}')
