"""Texts about a scene: captions, lists, referring expressions, questions with their answers.

A `Turn` also holds which words refer to which regions, for training and measuring the head; the
LMM is trained on the text alone.
"""

from dataclasses import dataclass

from flmm.stickers.kinds import Kind
from flmm.stickers.scene import PLACES, Band, Scene, Thing

NUMBER_WORDS = (
    "no", "one", "two", "three", "four", "five", "six",
    "seven", "eight", "nine", "ten", "eleven", "twelve",
)  # fmt: skip
_STUFF_WITHOUT_ARTICLE = ("grass", "sand", "snow", "water")

CAPTION_QUESTIONS = ("What is in the picture?", "Describe the picture.", "What do you see?")
LIST_QUESTIONS = ("List what you see.", "Name everything in the picture.")
SEGMENT_QUESTION = "Where is {phrase}?"

IN_FRONT_OF, ON, ABSENT = " is in front of", " is on", " is not in the picture"
MULTIWORD_TOKENS = (
    *(f"{verb} {place}" for verb in ("", " is") for row in PLACES for place in row),
    IN_FRONT_OF, ON, ABSENT,
)  # fmt: skip
"""Texts that follow a phrase and locate the thing, each a single token of the LMM (as in SuperBPE,
Liu et al. 2025): the phrase's last token must predict them, so it has to attend to the thing. With
separate tokens, an "is" after the phrase could do that instead."""


@dataclass(frozen=True)
class Mention:
    """A phrase, `answer[start:end]`, and the indices of the things and bands that it means."""

    start: int
    end: int
    things: tuple[int, ...] = ()
    bands: tuple[int, ...] = ()


@dataclass(frozen=True)
class Turn:
    """A question and its answer; `task` is the type of question."""

    task: str
    question: str
    answer: str
    mentions: tuple[Mention, ...] = ()


Conversation = tuple[Turn, ...]
"""Turns about one picture; each may refer to those before it."""


class AnswerBuilder:
    """A builder of an answer's text and mentions."""

    def __init__(self) -> None:
        self.text = ""
        self.mentions: list[Mention] = []

    def add_text(self, text: str) -> "AnswerBuilder":
        """Append text that refers to nothing."""
        self.text += text
        return self

    def add_mention(
        self, words: str, things: tuple[int, ...] = (), bands: tuple[int, ...] = ()
    ) -> "AnswerBuilder":
        """Append words that refer to things and bands; capitalised at the start of the answer."""
        if not self.text:
            words = words[0].upper() + words[1:]
        start = len(self.text)
        self.text += words
        self.mentions.append(Mention(start, len(self.text), things, bands))
        return self

    def build_turn(self, task: str, question: str) -> Turn:
        """Return the turn with this answer."""
        return Turn(task, question, self.text, tuple(self.mentions))


def stuff_phrase(name: str) -> str:
    """Return the name of stuff with its article, if it takes one."""
    return name if name in _STUFF_WITHOUT_ARTICLE else f"a {name}"


def kind_phrase(kind: Kind, count: int) -> str:
    """Return the phrase for `count` things of a kind, such as "a cat" or "two cats"."""
    return f"{kind.article} {kind.name}" if count == 1 else f"{NUMBER_WORDS[count]} {kind.plural}"


def thing_indices(scene: Scene, kind: Kind) -> tuple[int, ...]:
    """Return the indices of a scene's things of a kind."""
    return tuple(i for i, thing in enumerate(scene.things) if thing.kind == kind)


def _list_separator(position: int, count: int) -> str:
    if position == 0:
        return ""
    return " and " if position == count - 1 else ", "


def caption_turn(scene: Scene, question: str = CAPTION_QUESTIONS[0]) -> Turn:
    """Return a caption: kinds from left to right, single ones with their place; then stuff."""
    several = len(scene.things_of_kind(scene.kinds[0])) > 1
    answer = AnswerBuilder().add_text("There are " if several else "There is ")
    for position, kind in enumerate(scene.kinds):
        things = thing_indices(scene, kind)
        answer.add_text(_list_separator(position, len(scene.kinds)))
        answer.add_mention(kind_phrase(kind, len(things)), things=things)
        if len(things) == 1:
            answer.add_text(f" {scene.things[things[0]].place}")
    answer.add_text(". In front is ")
    for offset, band in enumerate(reversed(scene.bands[1:])):
        answer.add_text(" and " if offset else "")
        answer.add_mention(stuff_phrase(band.name), bands=(len(scene.bands) - 1 - offset,))
    answer.add_text(" and behind is ").add_mention(
        stuff_phrase(scene.backdrop.name), bands=(0,)
    ).add_text(".")
    return answer.build_turn("caption", question)


def list_turn(scene: Scene, question: str = LIST_QUESTIONS[0]) -> Turn:
    """Return a list of the kinds from left to right, then of the stuff."""
    answer = AnswerBuilder()
    for kind in scene.kinds:
        things = thing_indices(scene, kind)
        answer.add_mention(kind_phrase(kind, len(things)), things=things).add_text(", ")
    for index in range(len(scene.bands) - 1, -1, -1):
        name = stuff_phrase(scene.bands[index].name)
        answer.add_mention(name, bands=(index,)).add_text(", " if index else ".")
    return answer.build_turn("list", question)


def find_nearest_thing(scene: Scene, thing: Thing) -> Thing | None:
    """Return the nearest other thing, or None if there is none or the next is almost as near."""
    others = sorted((thing.distance(o), i) for i, o in enumerate(scene.things) if o is not thing)
    if not others or (len(others) > 1 and others[0][0] > 0.75 * others[1][0]):
        return None
    return scene.things[others[0][1]]


def referring_expressions(scene: Scene, index: int) -> tuple[str, ...]:
    """Return all expressions that mean this thing and no other."""
    thing = scene.things[index]
    name = thing.kind.name
    same = [other for other in scene.things_of_kind(thing.kind) if other is not thing]
    expressions = [] if same else [f"the {name}"]
    if all(other.place != thing.place for other in same):
        expressions.append(f"the {name} {thing.place}")
    for other in scene.things:
        if len(scene.things_of_kind(other.kind)) > 1 or other is thing:
            continue
        is_nearest = not same and find_nearest_thing(scene, thing) is other
        if is_nearest or (
            same and all(thing.distance(other) < 0.6 * twin.distance(other) for twin in same)
        ):
            expressions.append(f"the {name} next to the {other.kind.name}")
    if len(same) == 1:
        twin = same[0]
        if max(thing.size, twin.size) > 1.2 * min(thing.size, twin.size):
            expressions.append(f"the {'large' if thing.size > twin.size else 'small'} {name}")
        if abs(thing.x - twin.x) > 0.15:
            expressions.append(f"the {'left' if thing.x < twin.x else 'right'} {name}")
        if abs(thing.y - twin.y) > 0.15:
            expressions.append(f"the {'upper' if thing.y < twin.y else 'lower'} {name}")
    return tuple(expressions)


def _band_place(scene: Scene, band: Band) -> str:
    if band is scene.backdrop:
        return "at the top"
    return "at the bottom" if band is scene.ground else "in the middle"


def thing_place_turn(scene: Scene, index: int, expression: str) -> Turn:
    """Return "Where is ...?" about a thing, answered with its place.

    If the expression itself ends with the place, the answer is the stuff behind the thing.
    """
    thing = scene.things[index]
    answer = AnswerBuilder().add_mention(expression, things=(index,))
    if expression.endswith(thing.place):
        behind = scene.find_band_behind(thing)
        answer.add_text(IN_FRONT_OF if behind is scene.backdrop else ON).add_text(" ")
        answer.add_mention(stuff_phrase(behind.name), bands=(scene.bands.index(behind),)).add_text(
            "."
        )
    else:
        answer.add_text(f" is {thing.place}.")
    return answer.build_turn("where", SEGMENT_QUESTION.format(phrase=expression))


def band_place_turn(scene: Scene, index: int) -> Turn:
    """Return "Where is ...?" about a region of stuff, answered with its place."""
    band = scene.bands[index]
    answer = AnswerBuilder().add_mention(f"the {band.name}", bands=(index,))
    answer.add_text(f" is {_band_place(scene, band)}.")
    return answer.build_turn("where", SEGMENT_QUESTION.format(phrase=f"the {band.name}"))


def absent_place_turn(expression: str) -> Turn:
    """Return "Where is ...?" about something that the scene does not hold."""
    answer = f"{expression[0].upper()}{expression[1:]}{ABSENT}."
    return Turn("where", SEGMENT_QUESTION.format(phrase=expression), answer)


def tag_number_turn(scene: Scene, index: int, expression: str) -> Turn:
    """Return the question for the number on the tag of the thing that the expression means."""
    answer = AnswerBuilder().add_text("The number on ").add_mention(expression, things=(index,))
    answer.add_text(f" is {scene.things[index].tag_number}.")
    return answer.build_turn("number", f"What number is on {expression}?")
