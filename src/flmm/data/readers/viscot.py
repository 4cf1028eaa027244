"""Visual CoT's benchmark: questions, their answers, and the box that each is about.

Each JSON of the benchmark is a list of entries

    {"dataset": "gqa", "split": "val", "question_id": 7,
     "image": ["cot/gqa/1.jpg", "cot/gqa/1.jpg###[217, 343, 242, 393]"],
     "conversations": [{"from": "human", "value": "<image>\\nWhat …? Please provide the …"},
                       {"from": "gpt", "value": "[0.542, 0.686, 0.592, 0.786]"},
                       {"from": "human", "value": "<image>"}, {"from": "gpt", "value": "window"}]}

Read are the question, the answer, and the box after ``###``: x0, y0, x1, y1 in pixels of the
original picture. (The second turn's box is of the picture padded to a square.)
"""

import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.files import choose_picture, read_json
from flmm.data.sample import BoxRegion, GroundedPhrase, GroundedText, Sample, invalid_text
from flmm.errors import InputError

# An answer may be a bare number.
_Words = Annotated[str, Field(coerce_numbers_to_str=True)]
_Turn = TypedDict("_Turn", {"from": Literal["human", "gpt"], "value": _Words})


class _Entry(TypedDict):
    image: Annotated[list[str], Field(min_length=1)]
    conversations: list[_Turn]


_ENTRIES = TypeAdapter(list[_Entry])
_IMAGE_MARK = "<image>"
_BOX_REQUEST = (
    "Please provide the bounding box coordinate of the region that can help you answer the"
    " question better."
)
_BOX_MARK = "###"
_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,20})?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


def read_viscot(file: Path, pictures: Path) -> list[Sample]:
    """Return every question of one JSON; those about one picture are the texts of one sample.

    A question is an instruction; its one phrase is the whole question and means the box. An entry
    without a question, a box or an answer is reported and skipped when the sample is loaded.

    Args:
        file: such as ``viscot_benchmark/benchmark/gqa.json``.
        pictures: the folder that holds ``cot``.

    Raises:
        InputError: the file is missing, damaged or of another form, or no entry of it is right.
    """
    entries = read_json(file, _ENTRIES)
    texts: dict[Path, list[GroundedText]] = defaultdict(list)
    reasons = []
    for number, entry in enumerate(entries):
        picture, *others = entry["image"]
        named_again, _, box_text = "".join(others).rpartition(_BOX_MARK)
        # In the published infographicsvqa.json one of the two may be a .png, the other a .jpeg.
        is_same_picture = os.path.splitext(picture)[0] == os.path.splitext(named_again)[0]
        try:
            if not is_same_picture:
                raise InputError(
                    f"entry {number} has the images {entry['image']}, not a picture and the same"
                    f" picture with {_BOX_MARK}[x0, y0, x1, y1]"
                )
            text = _text(str(number), entry, box_text)
        except InputError as error:
            reasons.append(str(error))
            text = invalid_text(str(number), "instruction", str(error))
        names = (picture, named_again) if is_same_picture else (picture,)
        texts[choose_picture(*(pictures / name for name in names))].append(text)
    if len(reasons) == len(entries):
        raise InputError(
            f"{str(file)!r} has no entry of the benchmark's form ({(*reasons, 'it is empty')[0]});"
            " download it again"
        )
    return [Sample(picture, tuple(questions)) for picture, questions in texts.items()]


def _text(identity: str, entry: _Entry, box_text: str) -> GroundedText:
    """Return an entry's question with its box.

    Raises:
        InputError: it has none.
    """
    box = _BOX.fullmatch(box_text)
    if box is None:
        raise InputError(f"entry {identity} has the box {box_text!r}, not [x0, y0, x1, y1]")
    if len(entry["conversations"]) != 4:
        raise InputError(f"entry {identity} has {len(entry['conversations'])} turns, not 4")
    prompt, _, _, answer = (turn["value"] for turn in entry["conversations"])
    question = prompt.replace(_IMAGE_MARK, "").replace(_BOX_REQUEST, "").strip()
    if not question:
        raise InputError(f"entry {identity} has no question")
    x0, y0, x1, y1 = map(float, box.groups())
    phrase = GroundedPhrase(0, len(question), (BoxRegion((x0, y0, x1, y1)),))
    return GroundedText(identity, "instruction", question, (phrase,), answer=answer)
