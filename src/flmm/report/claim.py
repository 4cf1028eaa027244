"""What every claim has: a name, a way to measure it, and a way to show what came out.

A claim's results are kept as JSON with all that they depend on; where these are the same, they are
not measured again.
"""

import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Generic, TypeVar

from pydantic import TypeAdapter, ValidationError

from flmm.atomic_write import whole_file
from flmm.errors import InputError
from flmm.report.context import Bench

R = TypeVar("R")


def _any_bench(_bench: "Bench") -> None:
    """Of claims that can be measured on all data with every LMM."""


@dataclass(frozen=True)
class Claim(Generic[R]):
    """One claim of the paper."""

    name: str
    """Of its files and its command."""
    title: str
    kind: type[R]
    """A frozen dataclass: what is measured."""
    version: int
    """Counted up when the way of measuring changes."""
    measure: Callable[[Bench], R]
    tables: Callable[[R], str]
    """Markdown."""
    figures: Callable[[R, Bench, Path], dict[str, str]]
    """Writes figures to a folder; their files' names and what they show."""
    check: Callable[[Bench], None] = _any_bench
    """Raises an InputError that says what the data or the LMM lack, before anything is measured."""

    def run(self, bench: Bench, out: Path) -> R:
        """Measures what is not measured yet, and writes ``{name}.json``, ``.md`` and figures.

        Raises:
            InputError: the folder cannot be written, or the data or the LMM do not suit the claim.
        """
        self.check(bench)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the folder {str(out)!r} ({error.strerror}); choose another --out"
            ) from error
        key = {"claim": f"{self.name} {self.version}", **bench.key}
        results = self._kept(out, key)
        if results is None:
            results = self.measure(bench)
            content = {"made for": key, "results": asdict(results)}  # type: ignore[call-overload]
            _write(out / f"{self.name}.json", json.dumps(content, indent=1))
        shown = self.figures(results, bench, out)
        _write(out / f"{self.name}.md", self._section(results, shown))
        return results

    def _kept(self, out: Path, key: dict[str, str]) -> R | None:
        try:
            content = json.loads((out / f"{self.name}.json").read_text(encoding="utf-8"))
            if content["made for"] != key:
                return None
            return TypeAdapter(self.kind).validate_python(content["results"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return None

    def _section(self, results: R, shown: dict[str, str]) -> str:
        pictures = "".join(f"![{what}]({file})\n\n{what}\n\n" for file, what in shown.items())
        return f"## {self.title}\n\n{self.tables(results).strip()}\n\n{pictures.strip()}\n"


def write_index(out: Path, names: list[str]) -> Path:
    """Joins the sections that there are into one page, beside the folder and named like it."""
    page = out.with_suffix(".md")
    sections = [
        _FILE_LINK.sub(f"]({out.name}/", file.read_text(encoding="utf-8"))
        for name in names
        if (file := out / f"{name}.md").exists()
    ]
    _write(page, "\n".join([_HEADING, *sections]))
    return page


_FILE_LINK = re.compile(r"\]\((?!https?:)")
"""Where a link to a file, not to an address, begins."""

_HEADING = """# The paper's claims, measured

F-LMM ([arXiv 2406.05821](https://arxiv.org/abs/2406.05821)) claims that a frozen LMM can show where
its words are. Here each claim is measured on the embedded model and its world of sticker scenes, by
`make report`. `flmm report CLAIM --model HEAD --data SOURCE.yaml` measures yours.

All scores are in percent, with the 95 % interval of a bootstrap over pictures in brackets. cIoU:
sum of all intersections over sum of all unions; mIoU: mean IoU of the phrases. What a comparison
may choose (a head, a layer, a level to cut a map at) is chosen on other pictures than those
measured. "Whole picture" says that everything is the phrase: what no look at all would score.
"""


def _write(file: Path, text: str) -> None:
    with whole_file(file) as place:
        place.write_text(text, encoding="utf-8")
