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

import re
from collections import defaultdict
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter
from typing_extensions import TypedDict

from flmm.data.readers.files import read_json
from flmm.data.sample import BoxRegion, GroundedPhrase, GroundedText, Sample
from flmm.errors import InputError

_Turn = TypedDict("_Turn", {"from": Literal["human", "gpt"], "value": str})


class _Entry(TypedDict):
    image: Annotated[list[str], Field(min_length=2, max_length=2)]
    conversations: Annotated[list[_Turn], Field(min_length=4, max_length=4)]


_ENTRIES = TypeAdapter(list[_Entry])
_IMAGE_MARK = "<image>"
_BOX_REQUEST = (
    "Please provide the bounding box coordinate of the region that can help you answer the"
    " question better."
)
_NUMBER = r"\s*(-?\d{1,9}(?:\.\d{1,9})?)\s*"
_BOX = re.compile(rf"\[{_NUMBER},{_NUMBER},{_NUMBER},{_NUMBER}\]")


def read_viscot(file: Path, pictures: Path) -> list[Sample]:
    """Return every question of one JSON; those about one picture are the texts of one sample.

    A question is an instruction; its one phrase is the whole question and means the box.

    Args:
        file: such as ``viscot_benchmark/benchmark/gqa.json``.
        pictures: the folder that holds ``cot``.

    Raises:
        InputError: the file is missing, damaged or of another form, or has no entry.
    """
    texts: dict[str, list[GroundedText]] = defaultdict(list)
    entries = read_json(file, _ENTRIES)
    for number, entry in enumerate(entries):
        picture, picture_and_box = entry["image"]
        name, _, box_text = picture_and_box.rpartition("###")
        box = _BOX.fullmatch(box_text)
        prompt, _, _, answer = (turn["value"] for turn in entry["conversations"])
        question = prompt.replace(_IMAGE_MARK, "").replace(_BOX_REQUEST, "").strip()
        if name != picture or box is None or not question:
            raise InputError(
                f"{str(file)!r}: entry {number} has no question, or its second image is not"
                f" {picture!r} with ###[x0, y0, x1, y1]; download the file again"
            )
        x0, y0, x1, y1 = map(float, box.groups())
        phrase = GroundedPhrase(0, len(question), (BoxRegion((x0, y0, x1, y1)),))
        texts[picture].append(
            GroundedText(f"{number}", "instruction", question, (phrase,), answer=answer)
        )
    if not texts:
        raise InputError(f"{str(file)!r} has no entry; download it again")
    return [Sample(pictures / picture, tuple(questions)) for picture, questions in texts.items()]
