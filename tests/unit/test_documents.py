"""Links, paths and imports in README and docs."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
_LINK = re.compile(r"\]\(([^)\s]+)\)")
_PATH = re.compile(r"(?<![\w./-])(?:src|tests|benchmarks|scripts|docs)/[\w./-]*\w")
_IN_PACKAGE = re.compile(r"`([\w/]+(?:/|\.py))`")
_IMPORT = re.compile(r"^from (flmm[\w.]*) import (.+)$|-m (flmm[\w.]+)", re.MULTILINE)
_HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)


def _anchors(document: Path) -> set[str]:
    """As GitHub makes them of headings."""
    headings = _HEADING.findall(document.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", one.lower()).replace(" ", "-") for one in headings}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: str(one.relative_to(ROOT)))
def test_links_lead_somewhere(document: Path) -> None:
    for link in _LINK.findall(document.read_text(encoding="utf-8")):
        if link.startswith("https://"):
            continue
        name, _, anchor = link.partition("#")
        target = document.parent / name if name else document
        assert target.exists(), link
        assert not anchor or anchor in _anchors(target), link


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: str(one.relative_to(ROOT)))
def test_paths_exist(document: Path) -> None:
    for path in _PATH.findall(document.read_text(encoding="utf-8")):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda one: str(one.relative_to(ROOT)))
def test_imports_work(document: Path) -> None:
    for module, names, program in _IMPORT.findall(document.read_text(encoding="utf-8")):
        imported = import_module(module or program)
        for name in filter(None, names.split(", ")):
            assert hasattr(imported, name), f"{module}.{name}"


def test_the_architecture_page_names_what_is_there() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    paths = _IN_PACKAGE.findall(text)
    assert len(paths) > 30
    for path in paths:
        assert (ROOT / path).exists() or (ROOT / "src" / "flmm" / path).exists(), path
