"""Results of ``flmm batch``, as pictures and answers."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from flmm.answers.json_types import AnswerJson
from flmm.errors import InputError, describe_first_error
from flmm.exports.pictures import PictureAnswer

_ANSWER_ADAPTER = TypeAdapter(AnswerJson)


@dataclass
class BatchResults:
    """The answers of a results file; each iteration reads them anew.

    Raises:
        InputError: while it reads, if the file is missing or a line is no result.
    """

    file: Path
    num_failed: int = 0
    """Results without an answer, in the last iteration."""

    def __iter__(self) -> Iterator[PictureAnswer]:
        self.num_failed = 0
        try:
            with self.file.open(encoding="utf-8") as opened:
                for number, line in enumerate(opened, 1):
                    if line.endswith("\n"):  # an incomplete last one is of a run that goes on
                        yield from self._read_line(line, number)
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{str(self.file)!r} cannot be read ({error}); give a results file of flmm batch"
            ) from error

    def _read_line(self, line: str, number: int) -> Iterator[PictureAnswer]:
        try:
            content = json.loads(line)
            image = content["task"]["image"]
            answers = content.get("answers", [content["answer"]] if "answer" in content else [])
            if not answers and "error" not in content:
                raise KeyError("answer")
            self.num_failed += not answers
            for answer in answers:
                yield str(image), _ANSWER_ADAPTER.validate_python(answer)
        except ValidationError as error:
            raise self._line_error(number, describe_first_error(error)) from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise self._line_error(number, f"{type(error).__name__}: {error}") from error

    def _line_error(self, number: int, reason: str) -> InputError:
        return InputError(
            f"{str(self.file)!r}, line {number}, is no result of flmm batch ({reason}); give its"
            " results file"
        )
