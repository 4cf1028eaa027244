"""Words that mean nothing in any drawn scene.

Those that scores are measured on differ from those that they are fitted on.
"""

from collections.abc import Sequence
from typing import Literal, TypeVar

import numpy as np

from flmm.stickers.kinds import KINDS
from flmm.stickers.scene import PLACES

Item = TypeVar("Item")
Use = Literal["fit", "measure"]

_ENGLISH: dict[Use, str] = {
    "fit": """quickly parliament democracy seventeen yesterday engine mortgage happiness algorithm
        however president window doctor Monday photosynthesis invoice justice running beautiful
        volcano opera mountain telephone carpet kitchen soldier baby man woman person city airport
        hockey poetry thunder keyboard spoon knife plate bread cheese philosophy ceremony
        signature bottle velocity wallet ladder curtain pillow blanket scissors necklace bridge
        tunnel statue fountain""",
    "measure": """slowly senate bureaucracy forty tomorrow gearbox tax sadness theorem although
        minister ceiling nurse Friday evolution receipt mercy sleeping ugly planet treaty valley
        radio rug bathroom pilot toddler girl boy people village harbour tennis music lightning
        mouse fork jug butter milk logic wedding passport jar gravity purse stairs mirror mattress
        towel stapler gloves bracelet tower cave monument waterfall desk""",
}
_TEXTS: dict[Use, tuple[str, ...]] = {
    "fit": (
        "the colour of money", "asdf qwer", "lorem ipsum dolor", "the inside of nothing",
        "my grandmother's", "xyzzy 42", "?!", "several people talking", "white teeth", "1234567",
        "the end", "hello", "what", "the shadow of the king",
    ),
    "measure": (
        "the price of oil", "hjkl uiop", "sit amet consectetur", "the outside of everything",
        "your uncle's", "foo bar 7", "...", "two men walking", "black hair", "987654",
        "the beginning", "goodbye", "who", "the reflection of a queen",
    ),
}  # fmt: skip
_ONSETS = ("b", "bl", "dr", "f", "gl", "h", "k", "kr", "l", "m", "n", "pl", "s", "sk", "tr", "z")
_VOWELS = ("a", "e", "i", "o", "u", "oo", "ai", "ea")
_CODAS = ("b", "ck", "d", "ft", "l", "m", "n", "nt", "p", "rp", "rt", "sh", "t", "x", "zz")


def write_nonsense(use: Use, random: np.random.Generator) -> str:
    """Return words about something else, keystrokes, or invented words; some with a place."""
    chance = random.random()
    word = choose(_ENGLISH[use].split(), random)
    if chance < 0.25:
        return word
    if chance < 0.5:
        return f"the {word}"
    if chance < 0.6:
        return f"a {word}"
    if chance < 0.7:
        return choose(_TEXTS[use], random)
    if chance < 0.8:
        return f"{_invent_word(random)} {_invent_word(random)}"
    if chance < 0.9:
        return f"the {_invent_word(random)}"
    return f"the {word} {choose(choose(PLACES, random), random)}"


def _invent_word(random: np.random.Generator) -> str:
    word = ""
    while not word or any(word == kind.name for kind in KINDS):
        syllables = [
            choose(parts, random)
            for _ in range(int(random.integers(1, 3)))
            for parts in (_ONSETS, _VOWELS, _CODAS)
        ]
        word = "".join(syllables)
    return word


def choose(items: Sequence[Item], random: np.random.Generator) -> Item:
    """Return a random item."""
    return items[int(random.integers(len(items)))]
