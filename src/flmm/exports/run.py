"""An export: results in, one folder out, complete or not at all."""

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from flmm.atomic_write import check_folder_of
from flmm.errors import InputError
from flmm.exports.coco import CocoExporter
from flmm.exports.cvat import CvatExporter
from flmm.exports.exporter import Exporter
from flmm.exports.formats import ExportFormat
from flmm.exports.label_studio import LabelStudioExporter
from flmm.exports.labelme import LabelmeExporter
from flmm.exports.mask_files import MaskFilesExporter
from flmm.exports.pictures import LabelledPictures
from flmm.exports.yolo import YoloExporter

EXPORTERS: Mapping[ExportFormat, type[Exporter]] = {
    "coco": CocoExporter,
    "label-studio": LabelStudioExporter,
    "cvat": CvatExporter,
    "yolo-seg": YoloExporter,
    "labelme": LabelmeExporter,
    "masks": MaskFilesExporter,
}


def export_pictures(
    pictures: LabelledPictures, export_format: ExportFormat, out: Path, image_prefix: str = ""
) -> None:
    """Write the labelled masks of pictures in a format.

    Args:
        pictures: read twice or more.
        export_format: a key of ``EXPORTERS``.
        out: a folder that is new or empty.
        image_prefix: in front of each picture's name, in ``FORMATS_WITH_IMAGE_NAMES``.

    Raises:
        InputError: the folder has content or cannot be written, or a result cannot be read.
    """
    with _create_folder(out) as folder:
        exporter = EXPORTERS[export_format](folder, pictures.all_labels, image_prefix)
        for picture in pictures:
            exporter.add(picture)
        exporter.finish()


def check_export_folder(out: Path) -> None:
    """Check that an export can be written there.

    Raises:
        InputError: there is something already, or it cannot be made.
    """
    if out.exists() and not out.is_dir():
        raise InputError(f"--out {str(out)!r} is a file; choose a new folder")
    if out.is_dir() and any(out.iterdir()):
        raise InputError(f"--out {str(out)!r} has files already; choose a new folder")
    check_folder_of(out)


@contextmanager
def _create_folder(out: Path) -> Iterator[Path]:
    """Yield a folder that becomes ``out`` after the block; if that raises, it is deleted."""
    check_export_folder(out)
    partial = out.with_name(f".flmm-{os.getpid()}-{os.urandom(4).hex()}.partial")
    try:
        partial.mkdir()
        yield partial
        partial.replace(out)
    except OSError as error:
        raise InputError(
            f"cannot write {str(out)!r} ({error.strerror}); choose another place for it"
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
