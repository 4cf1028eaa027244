"""``flmm calibrate``: which attention heads of an LMM say where things are, for masks without a
head."""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from flmm.atomic_write import check_folder_of
from flmm.cli.console import print_json, print_message, show_progress
from flmm.cli.options import DeviceOption, DtypeOption, JsonOption, load_lmm_alone
from flmm.errors import InputError

if TYPE_CHECKING:
    from flmm.progress import ProgressCallback
    from flmm.training_free.profile import Profile

Item = TypeVar("Item")


def calibrate(
    lmm: Annotated[
        str,
        typer.Option(
            "--lmm", metavar="LMM", show_default=False, help="Folder or hub id of the LMM."
        ),
    ],
    pictures: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[PICTURES]...",
            show_default=False,
            help="Picture files or folders of them; a hundred pictures are enough, and nothing need"
            " be known about them.",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            show_default=False,
            help="In place of pictures, a YAML file with one data source with masks (docs/data.md),"
            " which is better.",
        ),
    ] = None,
    out: Annotated[Path, typer.Option("--out", metavar="FILE", help="The profile's file.")] = Path(
        "flmm-profile.json"
    ),
    push_to_hub: Annotated[
        str | None,
        typer.Option(metavar="REPOSITORY", show_default=False, help="Also upload it there."),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find the attention heads that say where things are, for better masks without a head.

    Then: flmm chat photo.jpg "What is there?" --model flmm-profile.json
    """
    if (data is None) == (not pictures):
        raise InputError("nothing to calibrate on, or too much; give PICTURES or --data FILE")
    if out.is_dir():
        raise InputError(f"--out {str(out)!r} is a folder; name a file, such as profile.json")
    check_folder_of(out)
    files = _find_files(pictures or [])
    from flmm.training_free.profile import check_public_lmm, push_profile_to_hub, save_profile

    if push_to_hub is not None:
        # Before the LMM runs for minutes.
        check_public_lmm(lmm)
    if data is not None:
        profile = _calibrate_on_data(data, lmm, device, dtype)
    else:
        profile = _calibrate_on_pictures(files, lmm, device, dtype)
    save_profile(profile, out)
    url = None if push_to_hub is None else push_profile_to_hub(profile, push_to_hub)
    if as_json:
        print_json({"out": str(out), "url": url, "phrases": profile.num_phrases})
        return
    print(f"Profile of {profile.num_phrases} phrases: {out}")
    print(f"Use it: flmm chat PICTURE QUESTION --model {out}")


def _calibrate_on_data(file: Path, lmm: str, device: str | None, dtype: str | None) -> "Profile":
    from flmm.cli.report import read_data_source
    from flmm.data.sample_loader import SampleLoader
    from flmm.train.calibration import calibrate_on_samples

    samples = read_data_source(file).read(file.parent)
    grounder = load_lmm_alone(None, lmm, device, dtype)
    with show_progress() as on_progress:
        loaded = SampleLoader(print_message).load(_report_progress(samples, on_progress))
        return calibrate_on_samples(grounder.adapter, lmm, loaded, print_message)


def _find_files(sources: list[Path]) -> list[Path]:
    """Return the picture files that are named, and those in the folders that are.

    Raises:
        InputError: none of them is there, or there is no picture in them.
    """
    from flmm.pictures.folder import find_pictures

    if sources and not any(path.exists() for path in sources):
        named = ", ".join(repr(str(path)) for path in sources)
        raise InputError(f"there is no picture or folder {named}; check the path")
    files = [
        file for path in sources for file in (find_pictures(path) if path.is_dir() else [path])
    ]
    if sources and not files:
        raise InputError(f"there is no picture in {', '.join(map(str, sources))}; give others")
    return files


def _calibrate_on_pictures(
    files: list[Path], lmm: str, device: str | None, dtype: str | None
) -> "Profile":
    from flmm.train.calibration import calibrate_on_pictures

    grounder = load_lmm_alone(None, lmm, device, dtype)
    with show_progress() as on_progress:
        pictures = _report_progress(files, on_progress)
        return calibrate_on_pictures(grounder.adapter, lmm, pictures, print_message)


def _report_progress(items: Sequence[Item], on_progress: "ProgressCallback") -> Iterator[Item]:
    """Yield the items; report each one when the next is asked for."""
    for done, item in enumerate(items, start=1):
        yield item
        on_progress(done, len(items), "calibrating")
