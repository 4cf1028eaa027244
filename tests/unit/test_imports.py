"""Data flows one way: each stage imports only from the stages before it."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import flmm

PACKAGE = Path(flmm.__file__).parent

STAGES: tuple[tuple[str, ...], ...] = (
    (
        "errors",
        "types",
        "geometry",
        "pictures",
        "palette",
        "content",
        "weights",
        "metrics",
        "remembered",
        "whole_file",
        "stopwatch",
    ),
    ("lmm",),
    ("attention",),
    ("masks",),
    # The head's methods hand over to checkpoint, so these are one stage in several files.
    ("model", "checkpoint", "official", "official_names", "losses", "user_input"),
    ("legend", "overlay", "heat", "closer_look", "answer"),
    ("phrase_masks", "phrase_choice"),
    ("pipeline", "referring"),
    ("streaming", "attending", "thinking"),
    ("grounder",),
)
"""Folders and files from left to right; all others ("cli", "stickers", …) stand at the end."""

RANKS = {name: rank for rank, names in enumerate(STAGES) for name in names}


def rank(name: str) -> int:
    return RANKS.get(name, len(STAGES))


def imported_stages(source: str, package: str) -> Iterator[str]:
    """The stages that a file imports, at its top or inside its functions."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            module = node.module or ""
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == package and len(parts) > 1:
                yield parts[1]


FILES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_import_only_from_the_left(path: Path) -> None:
    own = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    for stage in imported_stages(path.read_text(encoding="utf-8"), "flmm"):
        assert rank(stage) <= rank(own), f"{own} stands left of {stage}, which it imports"
        if rank(own) == len(STAGES) and own != "cli":
            assert stage != "cli", f"{own} imports the command line"


def test_every_stage_exists() -> None:
    there = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()}
    assert set(RANKS) <= there


def test_the_rule_sees_imports_inside_functions() -> None:
    source = "def f():\n    from flmm.cli import main\n    import flmm.lmm.base\n"
    assert list(imported_stages(source, "flmm")) == ["cli", "lmm"]
    assert list(imported_stages("from flmm import checkpoint", "flmm")) == ["checkpoint"]


@pytest.mark.parametrize("module", ["flmm", "flmm.cli.main", "flmm.pictures", "flmm.lmm"])
def test_light_modules_wait_for_nothing_heavy(module: str) -> None:
    heavy = ("torch", "transformers", "spacy", "sklearn", "scipy")
    code = f"import sys, {module}; print([name for name in {heavy!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_public_names() -> None:
    assert dir(flmm) == ["Answer", "Grounder", "InputError", "Phrase", "__version__"]
    for name in flmm.__all__:
        assert getattr(flmm, name) is not None
    with pytest.raises(AttributeError, match="'flmm' has no attribute 'nothing'"):
        _ = flmm.nothing
