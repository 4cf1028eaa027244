"""A claim of the report: measured results, their tables and figures.

Results are kept as JSON with a key of all that they depend on; they are measured again only when
the key differs.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from flmm.atomic_write import atomic_write
from flmm.errors import InputError
from flmm.report.context import ReportContext
from flmm.report.saved_results import load_or_measure

Results = TypeVar("Results")


def accept_all(_context: "ReportContext") -> None:
    """Check nothing: for claims that suit all data and every LMM, with a head or without."""


@dataclass(frozen=True)
class Claim(Generic[Results]):
    """One claim of the paper."""

    name: str
    """Of its files, and its argument on the command line."""
    title: str
    results_type: type[Results]
    """A frozen dataclass."""
    version: int
    """To be increased when the measurement changes."""
    measure: Callable[[ReportContext], Results]
    render_tables: Callable[[Results], str]
    """Returns Markdown."""
    draw_figures: Callable[[Results, ReportContext, Path], dict[str, str]]
    """Writes figures to a folder; returns their captions by file name."""
    check: Callable[[ReportContext], object] = ReportContext.require_head
    """Raises an InputError, before measuring, if the data or the LMM do not suit the claim, or it
    needs a head and there is none."""

    def run(self, context: ReportContext, out: Path) -> Results:
        """Measure the claim if necessary, and write ``{name}.json``, ``.md`` and figures.

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
        results = load_or_measure(
            out / f"{self.name}.json", self.results_type, key, lambda: self.measure(context)
        )
        captions = self.draw_figures(results, context, out)
        _write_text(out / f"{self.name}.md", self._render_section(results, captions))
        return results

    def _render_section(self, results: Results, captions: dict[str, str]) -> str:
        figures = "".join(
            f"![{caption}]({file})\n\n{caption}\n\n" for file, caption in captions.items()
        )
        return f"## {self.title}\n\n{self.render_tables(results).strip()}\n\n{figures.strip()}\n"


TRAINING_FREE_SECTION = "training-free"
"""The section of ``benchmarks/training_free.py``, which needs files that flmm does not have."""


def write_page(out: Path, names: list[str]) -> Path:
    """Join the existing sections into one page beside the folder, ``{out}.md``.

    ``names``: of the claims, in their order; ``TRAINING_FREE_SECTION`` follows the first.
    """
    page = out.with_suffix(".md")
    sections = [
        _FILE_LINK.sub(f"]({out.name}/", file.read_text(encoding="utf-8"))
        for name in (*names[:1], TRAINING_FREE_SECTION, *names[1:])
        if (file := out / f"{name}.md").exists()
    ]
    _write_text(page, "\n".join([_INTRODUCTION, *sections]))
    return page


_FILE_LINK = re.compile(r"\]\((?!https?:)")
"""The start of a Markdown link to a file, not to a URL."""

_INTRODUCTION = """# The paper's claims, measured

F-LMM ([arXiv 2406.05821](https://arxiv.org/abs/2406.05821)) claims that a frozen LMM can show where
its words are. Here each claim is measured on the embedded model and its world of sticker scenes, by
`make report`. `flmm report CLAIM --model HEAD --data SOURCE.yaml` measures yours.

All scores are in percent, with the 95 % interval of a bootstrap over pictures in brackets. cIoU:
sum of all intersections over sum of all unions; mIoU: mean IoU of the phrases. What a comparison
may choose (a head, a layer, a threshold for a map) is chosen on other pictures than those
measured. "Whole picture" says that everything is the phrase: what no look at all would score.
"""


def _write_text(file: Path, text: str) -> None:
    with atomic_write(file) as path:
        path.write_text(text, encoding="utf-8")
