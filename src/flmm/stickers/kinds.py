"""The kinds of sticker ("things") and of landscape ("stuff") that the world is made of."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """A kind of sticker: its English name, its plural, and the code point of its Noto Emoji."""

    name: str
    plural: str
    code: str

    @property
    def article(self) -> str:
        return "an" if self.name[0] in "aeiou" else "a"


_NAMES = """
cat 1f408, dog 1f415, rabbit 1f407, elephant 1f418, monkey 1f412, rooster 1f413, pig 1f416,
sheep:sheep 1f411, tiger 1f405, snail 1f40c, turtle 1f422, fish:fish 1f420, octopus:octopuses
1f419, whale 1f433, penguin 1f427, frog 1f438, panda 1f43c, lion 1f981, fox:foxes 1f98a, owl
1f989, duck 1f986, parrot 1f99c, flamingo 1f9a9, butterfly:butterflies 1f98b, bee 1f41d, ladybug
1f41e, crab 1f980, apple 1f34e, banana 1f34c, lemon 1f34b, pear 1f350, strawberry:strawberries
1f353, pineapple 1f34d, watermelon 1f349, carrot 1f955, eggplant 1f346, mushroom 1f344, pizza
1f355, hamburger 1f354, doughnut 1f369, cupcake 1f9c1, sunflower 1f33b, tulip 1f337,
cactus:cactuses 1f335, tree 1f333, key 1f511, umbrella 2602-fe0f, soccer ball 26bd, basketball
1f3c0, guitar 1f3b8, bell 1f514, book 1f4d5, chair 1fa91, crown 1f451, backpack 1f392, balloon
1f388, gift 1f381, rocket 1f680, car 1f697, bus:buses 1f68c, sailboat 26f5, house 1f3e0, tent
26fa, snowman:snowmen 26c4
"""


def _parse(entry: str) -> Kind:
    names, code = entry.strip().rsplit(" ", 1)
    name, _, plural = names.partition(":")
    return Kind(name, plural or f"{name}s", code)


KINDS: tuple[Kind, ...] = tuple(_parse(entry) for entry in _NAMES.replace("\n", " ").split(","))

GROUNDS: tuple[str, ...] = ("grass", "sand", "snow", "water", "road", "wood floor")
BACKDROPS: tuple[str, ...] = ("blue sky", "night sky", "sunset", "brick wall", "forest")
STUFF: tuple[str, ...] = GROUNDS + BACKDROPS

# Noto Emoji as published by the npm package named here; its licence and notice are in NOTICE.
STICKER_PACKAGE = "emoji-datasource-google@15.1.2"
_ASSETS = Path(__file__).parents[1] / "assets"
STICKER_FOLDER = _ASSETS / "stickers"
EMBEDDED_FOLDER = _ASSETS / "embedded"
