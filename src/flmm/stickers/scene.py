"""Random scenes: which stickers a scene holds, where, how large, and on which stuff.

Positions and sizes are fractions of the picture's side, so that a scene can be drawn at any size.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from flmm.stickers.kinds import BACKDROPS, GROUNDS, KINDS, Kind

MAX_THINGS = 6

PLACES = (
    ("in the upper left", "at the top", "in the upper right"),
    ("on the left", "in the middle", "on the right"),
    ("in the lower left", "at the bottom", "in the lower right"),
)


@dataclass(frozen=True)
class Thing:
    """One sticker: its kind, centre (x, y) and side in fractions of the picture, angle, mirror."""

    kind: Kind
    x: float
    y: float
    size: float
    degrees: float
    mirrored: bool
    tag_number: int | None = None
    """1 to 9 on a tag that is too small for the LMM to read; None without a tag."""

    @property
    def place(self) -> str:
        """The ninth of the picture that holds the centre, in words (of `PLACES`)."""
        return PLACES[min(int(self.y * 3), 2)][min(int(self.x * 3), 2)]

    def distance(self, other: "Thing") -> float:
        """Return the distance between the centres, as a fraction of the picture's side."""
        return float(np.hypot(self.x - other.x, self.y - other.y))


@dataclass(frozen=True)
class Band:
    """A region of stuff, from its wavy upper edge down to the next region's upper edge."""

    name: str
    top: float
    waves: tuple[tuple[float, float, float], ...]
    """(amplitude, cycles, phase) of the sines that are added up to the upper edge."""

    def upper_edge(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the upper edge's y at each x, as fractions of the picture."""
        edge = np.full_like(x, self.top)
        for amplitude, cycles, phase in self.waves:
            edge += np.float32(amplitude) * np.sin(x * np.float32(6.28 * cycles) + phase)
        return edge


@dataclass(frozen=True)
class Scene:
    """The contents of one picture; `texture_seed` fixes the textures of its stuff."""

    things: tuple[Thing, ...]
    bands: tuple[Band, ...]
    texture_seed: int

    @cached_property
    def kinds(self) -> tuple[Kind, ...]:
        """The kinds in the scene, each once, from left to right."""
        ordered = sorted(self.things, key=lambda thing: thing.x)
        return tuple(dict.fromkeys(thing.kind for thing in ordered))

    def things_of_kind(self, kind: Kind) -> list[Thing]:
        """Return all things of a kind, in the order of `things`."""
        return [thing for thing in self.things if thing.kind == kind]

    def find_band_behind(self, thing: Thing) -> Band:
        """Return the region of stuff that the thing's centre lies on."""
        x = np.array([thing.x], dtype=np.float32)
        return [band for band in self.bands if band.upper_edge(x)[0] <= thing.y][-1]

    @property
    def backdrop(self) -> Band:
        """The uppermost region."""
        return self.bands[0]

    @property
    def ground(self) -> Band:
        """The lowest region."""
        return self.bands[-1]


def _generate_band(random: np.random.Generator, name: str, top: float) -> Band:
    waves = tuple(
        (float(random.uniform(0, 0.03)), float(random.uniform(0.3, 3)), float(random.uniform(0, 6)))
        for _ in range(3)
    )
    return Band(name, top, waves)


def _generate_bands(random: np.random.Generator) -> tuple[Band, ...]:
    horizon = float(random.uniform(0.35, 0.65))
    backdrop = Band(str(random.choice(BACKDROPS)), -1.0, ())
    grounds = [str(name) for name in random.permutation(GROUNDS)]
    bands = [backdrop, _generate_band(random, grounds[0], horizon)]
    if random.random() < 0.25:
        bands.append(_generate_band(random, grounds[1], horizon + float(random.uniform(0.16, 0.3))))
    return tuple(bands)


def _place_thing(
    random: np.random.Generator, placed: list[Thing], kind: Kind, smallest: float, largest: float
) -> Thing | None:
    """Return a thing of the kind that keeps clear of those `placed`, or None after 60 tries."""
    for _ in range(60):
        size = float(random.uniform(smallest, largest))
        margin = size * 0.48
        x, y = (float(value) for value in random.uniform(margin, 1 - margin, 2))
        is_free = all(
            max(abs(x - other.x), abs(y - other.y)) > 0.42 * (size + other.size) for other in placed
        )
        if is_free:
            return Thing(
                kind, x, y, size, float(random.uniform(-18, 18)), bool(random.random() < 0.5)
            )
    return None


def generate_scene(
    seed: int,
    *,
    max_things: int = MAX_THINGS,
    sticker_scale: float = 1.0,
    tagged: bool | None = None,
) -> Scene:
    """Generate the scene of a seed: 1 to `max_things` stickers on 2 or 3 regions of stuff.

    About half of the scenes with two or more stickers repeat a kind, for questions such as "the
    small cat" and "how many". `sticker_scale` multiplies the stickers' sides. In `tagged` scenes
    most things have a tag with a number; None makes a quarter of the scenes tagged.
    """
    random = np.random.default_rng(seed)
    bands = _generate_bands(random)
    count = int(random.integers(1, max_things + 1))
    kinds = [KINDS[index] for index in random.choice(len(KINDS), count, replace=False)]
    if count > 1 and random.random() < 0.5:
        kinds[1] = kinds[0]
        if count > 3 and random.random() < 0.3:
            kinds[2] = kinds[0]
    largest = 0.48 if count <= 3 else 0.36
    placed: list[Thing] = []
    for kind in kinds:
        thing = _place_thing(random, placed, kind, 0.22 * sticker_scale, largest * sticker_scale)
        if thing is not None:
            placed.append(thing)
    texture_seed = int(random.integers(2**31))
    chance = random.random()
    if chance < 0.25 if tagged is None else tagged:
        placed = [
            replace(thing, tag_number=int(random.integers(1, 10)))
            if random.random() < 0.8 or not index
            else thing
            for index, thing in enumerate(placed)
        ]
    return Scene(tuple(placed), bands, texture_seed)
