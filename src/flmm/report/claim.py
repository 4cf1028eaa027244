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

from flmm.atomic_write import atomic_write
from flmm.errors import InputError
from flmm.report.context import ReportContext

Results = TypeVar("Results")


def _accept_all(_context: "ReportContext") -> None:
    """Of claims that can be measured on all data with every LMM."""


@dataclass(frozen=True)
class Claim(Generic[Results]):
    """One claim of the paper."""

    name: str
    """Of its files and its command."""
    title: str
    results_type: type[Results]
    """A frozen dataclass: what is measured."""
    version: int
    """Counted up when the way of measuring changes."""
    measure: Callable[[ReportContext], Results]
    render_tables: Callable[[Results], str]
    """Markdown."""
    draw_figures: Callable[[Results, ReportContext, Path], dict[str, str]]
    """Writes figures to a folder; their files' names and what they show."""
    check: Callable[[ReportContext], None] = _accept_all
    """Raises an InputError that says what the data or the LMM lack, before anything is measured."""

    def run(self, context: ReportContext, out: Path) -> Results:
        """Measures what is not measured yet, and writes ``{name}.json``, ``.md`` and figures.

        Raises:
            InputError: the folder cannot be written, or the data or the LMM do not suit the claim.
        """
        self.check(context)
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(
                f"cannot make the folder {str(out)!r} ({error.strerror}); choose another --out"
            ) from error
        key = {"claim": f"{self.name} {self.version}", **context.cache_key}
        results = self._load_results(out, key)
        if results is None:
            results = self.measure(context)
            content = {"made for": key, "results": asdict(results)}  # type: ignore[call-overload]
            _write_text(out / f"{self.name}.json", json.dumps(content, indent=1))
        shown = self.draw_figures(results, context, out)
        _write_text(out / f"{self.name}.md", self._render_section(results, shown))
        return results

    def _load_results(self, out: Path, key: dict[str, str]) -> Results | None:
        try:
            content = json.loads((out / f"{self.name}.json").read_text(encoding="utf-8"))
            if content["made for"] != key:
                return None
            return TypeAdapter(self.results_type).validate_python(content["results"])
        except (OSError, ValueError, KeyError, TypeError, ValidationError):
            return None

    def _render_section(self, results: Results, figures: dict[str, str]) -> str:
        pictures = "".join(f"![{what}]({file})\n\n{what}\n\n" for file, what in figures.items())
        return f"## {self.title}\n\n{self.render_tables(results).strip()}\n\n{pictures.strip()}\n"


def write_page(out: Path, names: list[str]) -> Path:
    """Joins the sections that there are into one page, beside the folder and named like it."""
    page = out.with_suffix(".md")
    sections = [
        _FILE_LINK.sub(f"]({out.name}/", file.read_text(encoding="utf-8"))
        for name in names
        if (file := out / f"{name}.md").exists()
    ]
    _write_text(page, "\n".join([_INTRODUCTION, *sections]))
    return page


_FILE_LINK = re.compile(r"\]\((?!https?:)")
"""Where a link to a file, not to an address, begins."""

_INTRODUCTION = """# The paper's claims, measured

F-LMM ([arXiv 2406.05821](https://arxiv.org/abs/2406.05821)) claims that a frozen LMM can show where
its words are. Here each claim is measured on the embedded model and its world of sticker scenes, by
`make report`. `flmm report CLAIM --model HEAD --data SOURCE.yaml` measures yours.

All scores are in percent, with the 95 % interval of a bootstrap over pictures in brackets. cIoU:
sum of all intersections over sum of all unions; mIoU: mean IoU of the phrases. What a comparison
may choose (a head, a layer, a level to cut a map at) is chosen on other pictures than those
measured. "Whole picture" says that everything is the phrase: what no look at all would score.
"""


def _write_text(file: Path, text: str) -> None:
    with atomic_write(file) as place:
        place.write_text(text, encoding="utf-8")
