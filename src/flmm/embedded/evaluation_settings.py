"""The worlds that the embedded model is measured in: its own, and some that it never learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flmm.errors import InputError
from flmm.pictures.reading import read_picture
from flmm.stickers.draw import Drawing, DrawingStyle, draw
from flmm.stickers.kinds import KINDS, STICKER_FOLDER
from flmm.stickers.scene import MAX_THINGS, generate_scene

# Twice the area: sides, and those of the stickers in it, differ by this.
_SIDE_FACTOR = 2**0.5


@dataclass(frozen=True)
class EvaluationSetting:
    """Which scenes are drawn, and how."""

    name: str
    max_things: int = MAX_THINGS
    sticker_scale: float = 1.0
    size: int = 384
    artwork: Path = STICKER_FOLDER
    photographs: tuple[Path, ...] = ()
    """Pictures that are drawn instead of the bands of stuff, by turns; none for the bands."""

    def draw(self, seed: int) -> Drawing:
        """The scene of a seed, always the same."""
        scene = generate_scene(seed, max_things=self.max_things, sticker_scale=self.sticker_scale)
        photographs = self.photographs
        photograph = photographs[seed % len(photographs)] if photographs else None
        return draw(scene, self.size, DrawingStyle(artwork=self.artwork, photograph=photograph))

    @property
    def has_stuff(self) -> bool:
        return not self.photographs


DEFAULT_SETTING = EvaluationSetting("its own world")
LARGER_SETTING = EvaluationSetting(
    "2x larger scenes", 2 * MAX_THINGS, 1 / _SIDE_FACTOR, round(384 * _SIDE_FACTOR)
)


def artwork_setting(folder: Path) -> EvaluationSetting:
    """The same scenes with other artwork.

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
    """The same stickers on photographs.

    Raises:
        InputError: the folder has no JPEG or PNG file, or one cannot be read.
    """
    found: Sequence[Path] = sorted(
        path for path in folder.glob("*") if path.suffix.lower() in (".jpg", ".jpeg", ".png")
    )
    if not found:
        raise InputError(f"{str(folder)!r} has no .jpg or .png file; give a folder of photographs")
    for path in found:
        read_picture(path)
    return EvaluationSetting("on photographs", photographs=tuple(found))
