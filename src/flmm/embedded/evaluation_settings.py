"""The worlds that the embedded model is measured in: its own, and some that it never learned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from flmm.errors import InputError
from flmm.pictures.reading import read_picture
from flmm.stickers.draw import Drawing, Style, draw
from flmm.stickers.kinds import KINDS, STICKER_FOLDER
from flmm.stickers.scene import MOST_THINGS, draw_scene

# Twice the area: sides, and those of the stickers in it, differ by this.
_LARGER = 2**0.5


@dataclass(frozen=True)
class Setting:
    """Which scenes are drawn, and how."""

    name: str
    most_things: int = MOST_THINGS
    scale: float = 1.0
    size: int = 384
    artwork: Path = STICKER_FOLDER
    photographs: tuple[Path, ...] = ()
    """Pictures that are drawn instead of the bands of stuff, by turns; none for the bands."""

    def drawing(self, seed: int) -> Drawing:
        """The scene of a seed, always the same."""
        scene = draw_scene(seed, most_things=self.most_things, scale=self.scale)
        photographs = self.photographs
        photograph = photographs[seed % len(photographs)] if photographs else None
        return draw(scene, self.size, Style(artwork=self.artwork, photograph=photograph))

    @property
    def has_stuff(self) -> bool:
        return not self.photographs


OWN = Setting("its own world")
LARGER = Setting("2x larger scenes", 2 * MOST_THINGS, 1 / _LARGER, round(384 * _LARGER))


def artwork_setting(folder: Path) -> Setting:
    """The same scenes with other artwork.

    Raises:
        InputError: the folder lacks an image of a kind, or one cannot be read.
    """
    missing = [kind for kind in KINDS if not (folder / f"{kind.code}.png").is_file()]
    if missing:
        raise InputError(
            f"{str(folder)!r} lacks {len(missing)} of {len(KINDS)} stickers, such as"
            f" {missing[0].code}.png ({missing[0].name}); fill it with scripts/fetch_stickers.py"
        )
    for kind in KINDS:
        read_picture(folder / f"{kind.code}.png")
    return Setting(f"artwork: {folder.name}", artwork=folder)


def photograph_setting(folder: Path) -> Setting:
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
    return Setting("on photographs", photographs=tuple(found))
