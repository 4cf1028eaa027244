"""The names of the export formats."""

from typing import Literal

ExportFormat = Literal["coco", "label-studio", "cvat", "yolo-seg", "labelme", "masks"]

FORMATS_WITH_IMAGE_NAMES: tuple[ExportFormat, ...] = ("coco", "label-studio", "cvat")
"""Their files say where the pictures are; those of the others lie beside them."""
