"""Questions about numbers on tags, in the form of Visual CoT's benchmark.

    python benchmarks/tag_questions.py FOLDER [QUESTIONS]
    flmm evaluate viscot --think --file FOLDER/benchmark --pictures FOLDER

writes QUESTIONS (default 200) about sticker scenes that the embedded model never saw, those of
``flmm report chain-of-thought``. The numbers are too small to read where the LMM sees the whole
picture; the answer is the number alone.
"""

import json
import sys
from pathlib import Path

from flmm.data.fixtures.common import save_picture, write_text
from flmm.data.fixtures.referring import describe_viscot_question
from flmm.report.chain_of_thought.tag_questions import build_tag_questions


def write_tag_questions(folder: Path, num_questions: int) -> None:
    """Write ``benchmark/tags.json``, and the pictures into ``cot/tags``."""
    entries = []
    for number, question in enumerate(build_tag_questions(num_questions)):
        # As JPEG the numbers would have other pixels than those that the model learned.
        name = f"cot/tags/{number}.png"
        save_picture(question.drawing, folder / name)
        entries.append(
            describe_viscot_question(
                name, number, question.turn.question, f"{question.number}", question.mask
            )
        )
    write_text(folder / "benchmark" / "tags.json", json.dumps(entries, indent=4))


if __name__ == "__main__":
    write_tag_questions(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 200)
