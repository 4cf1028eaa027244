"""What all export formats have in common."""

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from flmm.errors import InputError
from flmm.exports.pictures import LabelledPicture
from flmm.pictures.folder import has_picture_suffix

# What XML 1.0 cannot hold.
_NO_XML_CHARACTERS = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


class Exporter(ABC):
    """A writer of one format.

    Args:
        folder: empty.
        labels: all that there are.
        image_prefix: in front of each picture's name.
    """

    next_step: str
    """What to do with the files, for the user."""

    def __init__(self, folder: Path, labels: Sequence[str], image_prefix: str = "") -> None:
        self.folder = folder
        self.labels = labels
        self.image_prefix = image_prefix
        self.label_numbers = {label: number for number, label in enumerate(labels)}
        """From 0."""

    @abstractmethod
    def add(self, picture: LabelledPicture) -> None:
        """Write a picture's masks."""

    @abstractmethod
    def finish(self) -> None:
        """Write what belongs to all pictures."""

    def image_name(self, picture: LabelledPicture) -> str:
        """Return the picture's name with the prefix."""
        return self.image_prefix + picture.image

    def new_file(self, picture: LabelledPicture, suffix: str, inside: str = "") -> Path:
        """Return the path of a file that the format names by the picture, with its folder.

        Args:
            picture: whose name counts.
            suffix: in the place of the picture's.
            inside: of which folder of the export.

        Raises:
            InputError: another picture has the same.
        """
        name = picture.file
        # Names that Parquet rows and WebDataset samples get have no ending of a picture.
        stem = name.stem if has_picture_suffix(name.name) else name.name
        name = name.with_name(stem + suffix)
        file = self.folder / inside / name
        if file.exists():
            raise InputError(
                f"two pictures would be {str(name)!r}, one of them {picture.image!r}: this format"
                " leaves out the endings of names; rename one"
            )
        file.parent.mkdir(parents=True, exist_ok=True)
        return file


def replace_characters_not_in_xml(text: str) -> str:
    """Return the text with U+FFFD in the place of characters that XML cannot hold."""
    return _NO_XML_CHARACTERS.sub("\ufffd", text)
