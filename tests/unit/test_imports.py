"""Data flows one way: each folder imports only from those before it, and no files in a circle."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import flmm

PACKAGE = Path(flmm.__file__).parent
ARCHITECTURE = (PACKAGE.parents[1] / "docs" / "architecture.md").read_text(encoding="utf-8")

SHARED = "shared files"
FOLDERS = (
    SHARED, "pictures", "lmm", "attention", "segmenters", "masks", "training_free", "head",
    "answers", "grounding", "stickers", "data", "evaluate", "train", "batch", "exports",
    "embedded_model", "bench", "model_check", "report", "serve", "mcp", "cli",
)  # fmt: skip
"""From left to right; ``docs/architecture.md`` says what each is for. The files beside the folders
come first."""
SERVE_FOLDERS = (SHARED, "protection", "workers", "common", "service", "surfaces")
"""The order inside ``serve``."""
SERVE_FILES_AT_THE_END = ("monitoring", "app", "server")
MAX_FILES_AT_TOP = 10

FILES = sorted(PACKAGE.rglob("*.py"))


def module_name(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def imported_modules(source: str, modules: frozenset[str]) -> Iterator[str]:
    """The modules that a file imports: at its top, inside functions, and for types alone."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in modules)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where a name comes from"
            for alias in node.names:
                if (name := f"{node.module}.{alias.name}") in modules:
                    yield name
                elif node.module in modules:
                    yield node.module


IMPORTS = {
    module: frozenset(imported_modules(file.read_text(encoding="utf-8"), frozenset(MODULES)))
    for module, file in MODULES.items()
}


def folder_of(module: str) -> str:
    """The folder of the package that a module lies in."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 and (PACKAGE / parts[1]).is_dir() else SHARED


def circle(imports: dict[str, frozenset[str]]) -> list[str] | None:
    """Modules that import each other in a circle; None where there are none."""
    try:
        TopologicalSorter(imports).prepare()
    except CycleError as error:
        found: list[str] = error.args[1]
        return found
    return None


@pytest.mark.parametrize("module", [name for name in MODULES if name != "flmm"])
def test_files_import_only_from_folders_before_theirs(module: str) -> None:
    own = FOLDERS.index(folder_of(module))
    for imported in IMPORTS[module] - {"flmm"}:
        place = FOLDERS.index(folder_of(imported))
        assert place <= own, f"{module} imports {imported}, whose folder comes later"


def test_no_files_import_each_other_in_a_circle() -> None:
    # The package's own names are loaded when they are asked for; its file imports them for types.
    imports = {module: found - {"flmm"} for module, found in IMPORTS.items()}
    assert circle(imports) is None


def test_a_circle_is_found() -> None:
    modules = frozenset({"a", "b", "c"})
    sources = {"a": "import b", "b": "def f():\n    from c import x", "c": "from a import y"}
    imports = {
        name: frozenset(imported_modules(source, modules)) for name, source in sources.items()
    }
    assert set(circle(imports) or ()) == {"a", "b", "c"}
    assert circle({"a": frozenset({"b"}), "b": frozenset()}) is None


def test_every_folder_has_its_place_in_the_order() -> None:
    there = {path.name for path in PACKAGE.iterdir() if (path / "__init__.py").is_file()}
    assert there == set(FOLDERS) - {SHARED}


def test_the_architecture_page_has_the_same_order() -> None:
    rows = [line.split("|")[1].strip() for line in ARCHITECTURE.splitlines() if "|" in line]
    named = [row.strip("`").removesuffix("/") for row in rows if row.startswith("`")]
    assert [name for name in named if name in FOLDERS] == list(FOLDERS[1:])


def test_few_files_lie_beside_the_folders() -> None:
    assert len(list(PACKAGE.glob("*.py"))) <= MAX_FILES_AT_TOP


def serve_place(module: str) -> int:
    """Where a module of ``flmm.serve`` stands in its order."""
    name = module.split(".")[2]
    if name in SERVE_FILES_AT_THE_END:
        return len(SERVE_FOLDERS) + SERVE_FILES_AT_THE_END.index(name)
    if name in ("openai", "plain", "page"):
        name = "surfaces"
    return SERVE_FOLDERS.index(name if name in SERVE_FOLDERS else SHARED)


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("flmm.serve.")])
def test_the_server_is_in_layers(module: str) -> None:
    for imported in IMPORTS[module]:
        if imported.startswith("flmm.serve."):
            assert serve_place(imported) <= serve_place(module), f"{module} imports {imported}"


def test_imports_inside_functions_are_seen() -> None:
    modules = frozenset({"flmm.cli", "flmm.cli.main", "flmm.lmm.base", "flmm.head.checkpoint"})
    source = "def f():\n    from flmm.cli import main\n    import flmm.lmm.base\n"
    assert list(imported_modules(source, modules)) == ["flmm.cli.main", "flmm.lmm.base"]
    source = "from flmm.head.checkpoint import load_head"
    assert list(imported_modules(source, modules)) == ["flmm.head.checkpoint"]


@pytest.mark.parametrize(
    "module",
    ["flmm", "flmm.cli.main", "flmm.pictures.reading", "flmm.lmm.auto", "flmm.lmm.supported_types"],
)
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
