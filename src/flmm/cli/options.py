"""Options that commands share, and the checks and loading behind them."""

import gc
import os
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flmm.cli.console import is_terminal, print_message, show_spinner
from flmm.errors import InputError
from flmm.grounding.mask_options import MaskKeywords, MaskOptions
from flmm.user_input import check_dtype, check_max_new_tokens, is_embedded, resolve_model

if TYPE_CHECKING:
    from PIL import Image

    from flmm.grounding.grounder import Grounder


def _check_model_name(name: str | None) -> str | None:
    """Return the name unchanged, after a look whether there is such an embedded model."""
    if name is not None:
        resolve_model(name)
    return name


ImageArgument = Annotated[
    Path, typer.Argument(metavar="IMAGE", show_default=False, help="A picture file.")
]
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        callback=_check_model_name,
        metavar="HEAD",
        show_default=False,
        help="Folder or hub id of a grounding head, or a profile of flmm calibrate; by default none"
        " with --lmm (masks then need no training), and without the one that comes with flmm.",
    ),
]
LMMOption = Annotated[
    str | None,
    typer.Option(
        "--lmm",
        callback=_check_model_name,
        metavar="LMM",
        show_default=False,
        help="Folder or hub id of the LMM; by default the one that the head was trained on.",
    ),
]
SamOption = Annotated[
    str | None,
    typer.Option(
        "--sam",
        callback=_check_model_name,
        metavar="SAM",
        show_default=False,
        help="Folder or hub id of the SAM that makes the masks; by default the head's, or a small"
        " one of the hub. Without a head, none makes masks from attention alone.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        metavar="DEVICE",
        show_default=False,
        help="cpu, cuda, cuda:1 …; by default the GPU when there is one.",
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(
        "--dtype",
        callback=check_dtype,
        metavar="TYPE",
        show_default=False,
        help="The LMM's numbers: float32, bfloat16 or float16; with bfloat16 also those of masks.",
    ),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        metavar="FILE",
        show_default=False,
        help="The overlay's file; by default a new one here, named by IMAGE and the command"
        " (with --json, none).",
    ),
]
JsonOption = Annotated[
    bool,
    typer.Option("--json", help="Print one JSON document and nothing else on standard output."),
]
MaxNewTokensOption = Annotated[
    int,
    typer.Option(
        "--max-new-tokens",
        callback=check_max_new_tokens,
        metavar="NUMBER",
        help="Cut the answer there.",
    ),
]
PhraseOption = Annotated[
    list[str] | None,
    typer.Option(
        "--phrase",
        metavar="TEXT",
        show_default=False,
        help="Ground this part of the text, exactly as it stands there; may be repeated.",
    ),
]
PhrasesFromOption = Annotated[
    Literal["selector", "noun_chunks"] | None,
    typer.Option(
        "--phrases-from",
        metavar="SOURCE",
        show_default=False,
        help="Who chooses phrases: selector (part of the head) or noun_chunks (spaCy).",
    ),
]
RefineOption = Annotated[
    bool,
    typer.Option("--refine/--no-refine", help="Without SAM: faster, coarser."),
]
MaskThresholdOption = Annotated[
    float,
    typer.Option(
        "--mask-threshold",
        metavar="PROBABILITY",
        help="Pixels above it are in the mask; lower for larger masks.",
    ),
]
MinScoreOption = Annotated[
    float,
    typer.Option(
        "--min-score", metavar="SCORE", help="Leave out phrases with a lower score, in 0..1."
    ),
]
MinMaskRegionAreaOption = Annotated[
    int,
    typer.Option(
        "--min-mask-region-area",
        metavar="PIXELS",
        help="Remove smaller regions of masks and fill smaller holes; 0 keeps all.",
    ),
]


def find_output_path(
    images: Path | Sequence[Path], out: Path | None, as_json: bool, command: str
) -> Path | None:
    """Return the overlay's path, checked before the work is done; None for no overlay.

    A file that the user does not name is a new one, such as photo-chat.png or photo-chat-2.png for
    the first picture photo.jpg.

    Raises:
        InputError: it cannot be written there, or would replace the picture itself.
    """
    from flmm.answers.image_files import check_output_path

    images = [images] if isinstance(images, Path) else images
    if out is None:
        if as_json:
            return None
        names = (
            f"{images[0].stem}-{command}{f'-{number}' if number > 1 else ''}.png"
            for number in count(1)
        )
        out = Path(next(name for name in names if not os.path.exists(name)))
    check_output_path(out)
    if out.exists() and any(out.samefile(image) for image in images):
        raise InputError(f"--out {str(out)!r} is the picture itself; choose another file")
    return out


def check_mask_options(
    refine: bool, mask_threshold: float, min_score: float, min_mask_region_area: int
) -> MaskKeywords:
    """Return the options of masks as ``Grounder``'s keyword arguments.

    Raises:
        InputError: a value is outside its range.
    """
    masks = MaskKeywords(
        refine=refine,
        mask_threshold=mask_threshold,
        min_score=min_score,
        min_mask_region_area=min_mask_region_area,
    )
    MaskOptions(**masks)
    return masks


def load_grounder(
    model: str | None, lmm: str | None, sam: str | None, device: str | None, dtype: str | None
) -> "Grounder":
    """Load the grounder that the options name."""
    with _show_loading(embedded=model is None and lmm is None and sam is None):
        from flmm.grounding.grounder import Grounder

        return Grounder.from_pretrained(model, lmm=lmm, sam=sam, device=device, dtype=dtype)


def load_lmm_alone(
    model: str | None, lmm: str | None, device: str | None, dtype: str | None
) -> "Grounder":
    """Load the LMM that the options name, as a grounder without head and SAM."""
    with _show_loading(embedded=model is None and lmm is None):
        from flmm.grounding import loading
        from flmm.grounding.grounder import Grounder
        from flmm.lmm.placement import Placement
        from flmm.user_input import parse_dtype, resolve_device

        placement = Placement(resolve_device(device), parse_dtype(dtype))
        models = loading.load_lmm_alone(model, lmm, placement)
        return Grounder(models.adapter, lmm=models.lmm)


def warn_about_other_pictures(grounder: "Grounder", *pictures: "Image.Image") -> None:
    """Say on standard error that the embedded model does not know a picture that is no scene."""
    from flmm.embedded_model.domain import EMBEDDED_MODEL_NOTICE, is_sticker_scene

    if is_embedded(grounder.lmm) and not all(map(is_sticker_scene, pictures)):
        print_message(EMBEDDED_MODEL_NOTICE)


@contextmanager
def _show_loading(embedded: bool) -> Iterator[None]:
    """Show that models are being loaded; import and load them inside the block."""
    # A spinner would break a download's bars, so only the embedded models get one.
    if not embedded and is_terminal():
        print_message("loading the model")
    with show_spinner("loading the model" if embedded else None), _without_garbage_collection():
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # type: ignore[no-untyped-call]
        yield


def check_unused_options(context: typer.Context, situation: str, used: Collection[str]) -> None:
    """Check that nothing is given that would be ignored.

    Args:
        context: of the command.
        situation: what leaves most parameters without a meaning, for the message.
        used: the parameters that have one.

    Raises:
        InputError: names what else is given.
    """
    # By name, since Typer's own copy of click has another ParameterSource than click.
    ignored = [
        parameter.opts[0]
        for parameter in context.command.params
        if parameter.name is not None
        and parameter.name not in used
        and getattr(context.get_parameter_source(parameter.name), "name", "") == "COMMANDLINE"
    ]
    if ignored:
        raise InputError(
            f"{situation}, and would ignore {', '.join(ignored)}; leave out one or the other"
        )


def require_packages(extra: str, *packages: str) -> None:
    """Check that the packages of an extra are installed.

    Raises:
        InputError: one is missing; names the extra.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        raise InputError(
            f"this needs {', '.join(missing)}, not installed here; pip install 'flmm[{extra}]'"
        )


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Turn garbage collection off while imports and models, which are never freed, are loaded.

    Collections during loading and at exit would take a quarter of a command's time.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
