"""What can be said about a scene: captions, questions with answers, referring expressions.

Everything follows from the scene's facts; a `Turn` also keeps which words mean which regions, for
training and measuring the head (the LMM itself is trained on the words alone).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from flmm.stickers.kinds import KINDS, STUFF, Kind
from flmm.stickers.scene import PLACES, Band, Scene, Thing

NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
_BARE_STUFF = ("grass", "sand", "snow", "water")

CAPTION_QUESTIONS = ("What is in the picture?", "Describe the picture.", "What do you see?")
LIST_QUESTIONS = ("List what you see.", "Name everything in the picture.")
SEGMENT_QUESTION = "Where is {phrase}?"


@dataclass(frozen=True)
class Mention:
    """`answer[start:end]` means these things and bands (indices into the scene's)."""

    start: int
    end: int
    things: tuple[int, ...] = ()
    bands: tuple[int, ...] = ()


@dataclass(frozen=True)
class Turn:
    """One question and its answer; `task` names the sort of question."""

    task: str
    question: str
    answer: str
    mentions: tuple[Mention, ...] = ()


class _Answer:
    """An answer under construction, with its mentions."""

    def __init__(self) -> None:
        self.text = ""
        self.mentions: list[Mention] = []

    def say(self, words: str) -> "_Answer":
        self.text += words
        return self

    def mention(
        self, words: str, things: tuple[int, ...] = (), bands: tuple[int, ...] = ()
    ) -> "_Answer":
        if not self.text:
            words = words[0].upper() + words[1:]
        start = len(self.text)
        self.text += words
        self.mentions.append(Mention(start, len(self.text), things, bands))
        return self

    def turn(self, task: str, question: str) -> Turn:
        return Turn(task, question, self.text, tuple(self.mentions))


def stuff_phrase(name: str) -> str:
    return name if name in _BARE_STUFF else f"a {name}"


def kind_phrase(kind: Kind, count: int) -> str:
    return f"{kind.article} {kind.name}" if count == 1 else f"{NUMBERS[count]} {kind.plural}"


def _indices(scene: Scene, kind: Kind) -> tuple[int, ...]:
    return tuple(i for i, thing in enumerate(scene.things) if thing.kind == kind)


def _join(position: int, count: int) -> str:
    if position == 0:
        return ""
    return " and " if position == count - 1 else ", "


def caption(scene: Scene, question: str = CAPTION_QUESTIONS[0]) -> Turn:
    """Every thing from left to right, single ones with their place; then the stuff."""
    several = len(scene.of_kind(scene.kinds[0])) > 1
    answer = _Answer().say("There are " if several else "There is ")
    for position, kind in enumerate(scene.kinds):
        things = _indices(scene, kind)
        answer.say(_join(position, len(scene.kinds)))
        answer.mention(kind_phrase(kind, len(things)), things=things)
        if len(things) == 1:
            answer.say(f" {scene.things[things[0]].place}")
    answer.say(". In front is ")
    for offset, band in enumerate(reversed(scene.bands[1:])):
        answer.say(" and " if offset else "")
        answer.mention(stuff_phrase(band.name), bands=(len(scene.bands) - 1 - offset,))
    answer.say(" and behind is ").mention(stuff_phrase(scene.backdrop.name), bands=(0,)).say(".")
    return answer.turn("caption", question)


def listing(scene: Scene, question: str = LIST_QUESTIONS[0]) -> Turn:
    """Every thing from left to right, then the stuff, as a bare list."""
    answer = _Answer()
    for kind in scene.kinds:
        things = _indices(scene, kind)
        answer.mention(kind_phrase(kind, len(things)), things=things).say(", ")
    for index in range(len(scene.bands) - 1, -1, -1):
        name = stuff_phrase(scene.bands[index].name)
        answer.mention(name, bands=(index,)).say(", " if index else ".")
    return answer.turn("list", question)


def _nearest(scene: Scene, thing: Thing) -> Thing | None:
    """The clearly nearest other thing, or None."""
    others = sorted((thing.distance(o), i) for i, o in enumerate(scene.things) if o is not thing)
    if not others or (len(others) > 1 and others[0][0] > 0.75 * others[1][0]):
        return None
    return scene.things[others[0][1]]


def referring_expressions(scene: Scene, index: int) -> tuple[str, ...]:
    """All the expressions that mean this thing and no other."""
    thing = scene.things[index]
    name = thing.kind.name
    same = [other for other in scene.of_kind(thing.kind) if other is not thing]
    found = [] if same else [f"the {name}"]
    if all(other.place != thing.place for other in same):
        found.append(f"the {name} {thing.place}")
    for other in scene.things:
        if len(scene.of_kind(other.kind)) > 1 or other is thing:
            continue
        nearest = not same and _nearest(scene, thing) is other
        if nearest or (
            same and all(thing.distance(other) < 0.6 * twin.distance(other) for twin in same)
        ):
            found.append(f"the {name} next to the {other.kind.name}")
    if len(same) == 1:
        twin = same[0]
        if max(thing.size, twin.size) > 1.2 * min(thing.size, twin.size):
            found.append(f"the {'large' if thing.size > twin.size else 'small'} {name}")
        if abs(thing.x - twin.x) > 0.15:
            found.append(f"the {'left' if thing.x < twin.x else 'right'} {name}")
        if abs(thing.y - twin.y) > 0.15:
            found.append(f"the {'upper' if thing.y < twin.y else 'lower'} {name}")
    return tuple(found)


def _band_place(scene: Scene, band: Band) -> str:
    if band is scene.backdrop:
        return "at the top"
    return "at the bottom" if band is scene.ground else "in the middle"


def where_thing(scene: Scene, index: int, expression: str) -> Turn:
    """Where is the thing that this expression means? Its place, or what is behind it."""
    thing = scene.things[index]
    answer = _Answer().mention(expression, things=(index,))
    if expression.endswith(thing.place):
        behind = scene.band_behind(thing)
        answer.say(" is in front of ")
        answer.mention(stuff_phrase(behind.name), bands=(scene.bands.index(behind),)).say(".")
    else:
        answer.say(f" is {thing.place}.")
    return answer.turn("where", SEGMENT_QUESTION.format(phrase=expression))


def where_band(scene: Scene, index: int) -> Turn:
    """Where is this region of stuff?"""
    band = scene.bands[index]
    answer = _Answer().mention(f"the {band.name}", bands=(index,))
    answer.say(f" is {_band_place(scene, band)}.")
    return answer.turn("where", SEGMENT_QUESTION.format(phrase=f"the {band.name}"))


def _absent_kind(scene: Scene, random: np.random.Generator) -> Kind:
    absent = [kind for kind in KINDS if kind not in scene.kinds]
    return absent[int(random.integers(len(absent)))]


def ask_where(scene: Scene, random: np.random.Generator) -> Turn | None:
    chance = random.random()
    if chance < 0.1:
        kind = _absent_kind(scene, random)
        answer = _Answer().say(f"There is no {kind.name} in the picture.")
        return answer.turn("where", SEGMENT_QUESTION.format(phrase=f"the {kind.name}"))
    if chance < 0.2:
        return where_band(scene, int(random.integers(len(scene.bands))))
    index = int(random.integers(len(scene.things)))
    expressions = referring_expressions(scene, index)
    if not expressions:
        return None
    return where_thing(scene, index, expressions[int(random.integers(len(expressions)))])


def ask_what(scene: Scene, random: np.random.Generator) -> Turn | None:
    chance = random.random()
    if chance < 0.12:
        last = len(scene.bands) - 1
        answer = _Answer().mention(stuff_phrase(scene.ground.name), bands=(last,)).say(".")
        return answer.turn("what", "What is the ground?")
    if chance < 0.24:
        answer = _Answer().mention(stuff_phrase(scene.backdrop.name), bands=(0,)).say(".")
        return answer.turn("what", "What is in the background?")
    index = int(random.integers(len(scene.things)))
    thing = scene.things[index]
    if chance < 0.4:
        other = _nearest(scene, thing)
        if other is None or len(scene.of_kind(thing.kind)) > 1:
            return None
        where = f"next to the {thing.kind.name}"
        index, thing = scene.things.index(other), other
    else:
        where = thing.place
        if sum(other.place == where for other in scene.things) > 1:
            return None
    answer = _Answer().mention(kind_phrase(thing.kind, 1), things=(index,)).say(".")
    return answer.turn("what", f"What is {where}?")


def ask_how_many(scene: Scene, random: np.random.Generator) -> Turn:
    chance = random.random()
    if chance < 0.2:
        count = len(scene.things)
        words = (
            f"There is {NUMBERS[1]} thing." if count == 1 else f"There are {NUMBERS[count]} things."
        )
        return Turn("how many", "How many things are there?", words)
    kinds = scene.kinds
    kind = kinds[int(random.integers(len(kinds)))]
    repeated = [kind for kind in kinds if len(scene.of_kind(kind)) > 1]
    if repeated and chance < 0.6:
        kind = repeated[0]
    if chance > 0.9:
        kind = _absent_kind(scene, random)
    things = _indices(scene, kind)
    question = f"How many {kind.plural} are there?"
    if not things:
        return Turn("how many", question, f"There are no {kind.plural}.")
    name = kind.name if len(things) == 1 else kind.plural
    answer = _Answer().say("There is " if len(things) == 1 else "There are ")
    answer.mention(f"{NUMBERS[len(things)]} {name}", things=things).say(".")
    return answer.turn("how many", question)


def ask_is_there(scene: Scene, random: np.random.Generator) -> Turn:
    if random.random() < 0.25:
        name = STUFF[int(random.integers(len(STUFF)))]
        bands = [i for i, band in enumerate(scene.bands) if band.name == name]
        question = f"Is there {stuff_phrase(name)}?"
        if not bands:
            return Turn("is there", question, f"No, there is no {name}.")
        answer = _Answer().say("Yes, there is ").mention(stuff_phrase(name), bands=(bands[0],))
        return answer.say(".").turn("is there", question)
    kind = _absent_kind(scene, random)
    if random.random() < 0.5:
        kind = scene.kinds[int(random.integers(len(scene.kinds)))]
    question = f"Is there {kind_phrase(kind, 1)}?"
    things = _indices(scene, kind)
    if not things:
        return Turn("is there", question, f"No, there is no {kind.name}.")
    answer = _Answer().say("Yes, there is " if len(things) == 1 else "Yes, there are ")
    answer.mention(kind_phrase(kind, len(things)), things=things)
    if len(things) == 1:
        answer.say(f" {scene.things[things[0]].place}")
    return answer.say(".").turn("is there", question)


def ask_which(scene: Scene, random: np.random.Generator) -> Turn | None:
    single = [i for i, thing in enumerate(scene.things) if len(scene.of_kind(thing.kind)) == 1]
    if len(single) < 2:
        return None
    first, second = (single[i] for i in random.permutation(len(single))[:2])
    one, two = scene.things[first], scene.things[second]
    if random.random() < 0.6:
        word, gap, chosen = "further left", abs(one.x - two.x), first if one.x < two.x else second
    else:
        word, gap, chosen = (
            "larger",
            abs(one.size - two.size),
            first if one.size > two.size else second,
        )
    if gap < 0.06:
        return None
    answer = _Answer().mention(f"the {scene.things[chosen].kind.name}", things=(chosen,)).say(".")
    return answer.turn("which", f"Which is {word}, the {one.kind.name} or the {two.kind.name}?")


_ASKS: tuple[Callable[[Scene, np.random.Generator], Turn | None], ...] = (
    ask_where, ask_what, ask_how_many, ask_is_there, ask_which,
)  # fmt: skip
_SHARES = np.array([0.34, 0.22, 0.14, 0.2, 0.1])


def ask(scene: Scene, random: np.random.Generator) -> Turn:
    """One random question about the scene with its answer."""
    while True:
        turn = _ASKS[int(random.choice(len(_ASKS), p=_SHARES))](scene, random)
        if turn is not None:
            return turn


def say_all(scene: Scene, random: np.random.Generator) -> Turn:
    """A caption (mostly) or a list, to one of its questions."""
    if random.random() < 0.7:
        return caption(scene, CAPTION_QUESTIONS[int(random.integers(len(CAPTION_QUESTIONS)))])
    return listing(scene, LIST_QUESTIONS[int(random.integers(len(LIST_QUESTIONS)))])


def every_text() -> list[str]:
    """Texts that hold every word of the world, to train the tokenizer on."""
    from flmm.stickers.scene import draw_scene

    random = np.random.default_rng(0)
    texts = [
        f"{kind_phrase(k, 1)}. {k.plural}. the {k.name} {p}"
        for k in KINDS
        for row in PLACES
        for p in row
    ]
    for seed in range(3000):
        scene = draw_scene(seed)
        for turn in (caption(scene), listing(scene), *(ask(scene, random) for _ in range(4))):
            texts.append(f"{turn.question} {turn.answer}")
    return texts
