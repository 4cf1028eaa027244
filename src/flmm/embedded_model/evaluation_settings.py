"""The settings that the embedded model is measured in: as in training, and others."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flmm.errors import InputError
from flmm.pictures.reading import read_picture
from flmm.stickers.draw import Drawing, DrawingStyle, draw
from flmm.stickers.kinds import KINDS, STICKER_FOLDER
from flmm.stickers.scene import MAX_THINGS, generate_scene

# For twice the area: sides grow by this, and stickers shrink by it to keep their size in pixels.
_SIDE_FACTOR = 2**0.5


@dataclass(frozen=True)
class EvaluationSetting:
    """The kind of scenes that are measured, and how they are drawn."""

    name: str
    max_things: int = MAX_THINGS
    sticker_scale: float = 1.0
    size: int = 384
    artwork: Path = STICKER_FOLDER
    photographs: tuple[Path, ...] = ()
    """Pictures that replace the bands of stuff, in turn; empty for the bands themselves."""

    def draw(self, seed: int) -> Drawing:
        """Draw the scene of a seed."""
        scene = generate_scene(seed, max_things=self.max_things, sticker_scale=self.sticker_scale)
        photographs = self.photographs
        photograph = photographs[seed % len(photographs)] if photographs else None
        return draw(scene, self.size, DrawingStyle(artwork=self.artwork, photograph=photograph))

    @property
    def has_stuff(self) -> bool:
        """Whether the bands of stuff are drawn."""
        return not self.photographs


DEFAULT_SETTING = EvaluationSetting("its own world")
LARGER_SETTING = EvaluationSetting(
    "2x larger scenes", 2 * MAX_THINGS, 1 / _SIDE_FACTOR, round(384 * _SIDE_FACTOR)
)


def artwork_setting(folder: Path) -> EvaluationSetting:
    """Return the setting of the usual scenes in other artwork.

    Raises:
        InputError: the folder lacks an image of a kind, or one cannot be read.
    """
    missing = [kind for kind in KINDS if not (folder / f"{kind.emoji_code}.png").is_file()]
    if missing:
        raise InputError(
            f"{str(folder)!r} lacks {len(missing)} of {len(KINDS)} stickers, such as"
            f" {missing[0].emoji_code}.png ({missing[0].name});"
            " fill it with scripts/fetch_stickers.py"
        )
    for kind in KINDS:
        read_picture(folder / f"{kind.emoji_code}.png")
    return EvaluationSetting(f"artwork: {folder.name}", artwork=folder)


def photograph_setting(folder: Path) -> EvaluationSetting:
    """Return the setting of the usual stickers on photographs.

    Raises:
        InputError: the folder has no JPEG or PNG file, or one cannot be read.
    """
    photographs: Sequence[Path] = sorted(
        path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    )
    if not photographs:
        raise InputError(f"{str(folder)!r} has no .jpg or .png file; give a folder of photographs")
    for path in photographs:
        read_picture(path)
    return EvaluationSetting("on photographs", photographs=tuple(photographs))
