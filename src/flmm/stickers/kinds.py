"""The kinds of sticker ("things") and of landscape ("stuff") in the embedded world."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Kind:
    """A kind of sticker: its English name, its plural, and the code point of its Noto Emoji."""

    name: str
    plural: str
    emoji_code: str

    @property
    def article(self) -> str:
        return "an" if self.name[0] in "aeiou" else "a"


_NAMES = """
cat 1f408, dog 1f415, rabbit 1f407, elephant 1f418, monkey 1f412, rooster 1f413, pig 1f416,
sheep:sheep 1f411, tiger 1f405, snail 1f40c, turtle 1f422, fish:fish 1f420, octopus:octopuses
1f419, whale 1f433, penguin 1f427, frog 1f438, panda 1f43c, lion 1f981, fox:foxes 1f98a, owl
1f989, duck 1f986, parrot 1f99c, flamingo 1f9a9, butterfly:butterflies 1f98b, bee 1f41d, ladybug
1f41e, crab 1f980, cow 1f404, horse 1f40e, snake 1f40d, crocodile 1f40a, camel 1f42b, dolphin
1f42c, shark 1f988, koala 1f428, deer:deer 1f98c, zebra 1f993, giraffe 1f992, hedgehog 1f994,
kangaroo 1f998, peacock 1f99a, bat 1f987, swan 1f9a2, squirrel 1f43f-fe0f, spider 1f577-fe0f,
scorpion 1f982, lobster 1f99e, dragon 1f409, apple 1f34e, banana 1f34c, lemon 1f34b, pear 1f350,
strawberry:strawberries 1f353, pineapple 1f34d, watermelon 1f349, orange 1f34a, peach:peaches
1f351, tomato:tomatoes 1f345, avocado 1f951, carrot 1f955, eggplant 1f346, mushroom 1f344, pizza
1f355, hamburger 1f354, hot dog 1f32d, taco 1f32e, croissant 1f950, pretzel 1f968, cookie 1f36a,
doughnut 1f369, cupcake 1f9c1, sunflower 1f33b, tulip 1f337, rose 1f339, cactus:cactuses 1f335,
tree 1f333, palm tree 1f334, maple leaf:maple leaves 1f341, key 1f511, umbrella 2602-fe0f, soccer
ball 26bd, basketball 1f3c0, guitar 1f3b8, violin 1f3bb, trumpet 1f3ba, drum 1f941, bell 1f514,
book 1f4d5, chair 1fa91, crown 1f451, hat 1f3a9, shirt 1f455, boot 1f462, dress:dresses 1f457,
backpack 1f392, balloon 1f388, gift 1f381, kite 1fa81, teddy bear 1f9f8, trophy:trophies 1f3c6,
teapot 1fad6, cup 2615, lamp 1f4a1, candle 1f56f-fe0f, camera 1f4f7, television 1f4fa, hammer
1f528, magnet 1f9f2, basket 1f9fa, pencil 270f-fe0f, anchor 2693, alarm clock 23f0, star 2b50,
rocket 1f680, airplane 2708-fe0f, helicopter 1f681, car 1f697, truck 1f69a, tractor 1f69c, bus:buses
1f68c, bicycle 1f6b2, sailboat 26f5, house 1f3e0, castle 1f3f0, door 1f6aa, tent 26fa,
snowman:snowmen 26c4
"""


def _parse(entry: str) -> Kind:
    names, code = entry.strip().rsplit(" ", 1)
    name, _, plural = names.partition(":")
    return Kind(name, plural or f"{name}s", code)


KINDS: tuple[Kind, ...] = tuple(_parse(entry) for entry in _NAMES.replace("\n", " ").split(","))

GROUNDS: tuple[str, ...] = ("grass", "sand", "snow", "water", "road", "wood floor")
BACKDROPS: tuple[str, ...] = ("blue sky", "night sky", "sunset", "brick wall", "forest")
STUFF: tuple[str, ...] = GROUNDS + BACKDROPS

# npm packages: "google" is Noto Emoji, whose licence and notice are in NOTICE; "twitter" and
# "facebook" draw the same kinds.
STICKER_PACKAGE_TEMPLATE = "emoji-datasource-{artwork}@15.1.2"
DEFAULT_ARTWORK = "google"
STICKER_FOLDER = Path(__file__).parents[1] / "assets" / "stickers"
