"""``flmm models``: the families of LMMs and SAMs, and the embedded heads."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flmm.cli.console import print_json
from flmm.cli.model_check import check_lmm
from flmm.cli.options import DeviceOption, DtypeOption, JsonOption, check_unused_options
from flmm.lmm.auto import list_families
from flmm.lmm.model_type import read_model_type
from flmm.lmm.supported_types import Reader, SupportedTypes, list_supported_types
from flmm.segmenters.auto import list_segmenter_families
from flmm.user_input import find_embedded_models

if TYPE_CHECKING:
    from rich.table import Table

# How a family is verified, by its model type; the others by the contract tests.
_VERIFICATION_BY_MODEL_TYPE = {
    "llava": "contract tests; flmm's own trained model, end to end",
}
_DEFAULT_VERIFICATION = "contract tests, small random model"

# Families of which the method's authors published heads (paper table 1), for `flmm convert`.
_MODEL_TYPES_WITH_PUBLISHED_HEADS = frozenset(
    {"llava", "llava_next", "deepseek_vl", "deepseek_vl_hybrid"}
)


_READER_LABELS: Mapping[tuple[Reader, bool], str] = {
    ("own file", True): "by a file of its own (above)",
    ("own file", False): "by a file of its own (above), not verified",
    ("generic adapter", True): "by the generic adapter",
    ("generic adapter", False): "by the generic adapter, if it can",
    ("text only", True): "text only: answers without masks",
    ("text only", False): "text only, not verified",
    ("none", False): "no",
}
"""By reader and whether the type is verified."""

_NOTES = (
    "Verified: by the contract tests, on a small random model with all its features; llava also by "
    "flmm's own trained model, end to end. Those that the generic adapter reads if it can are not: "
    "flmm finds out where the image tokens lie in the picture, or says why it cannot.",
    "*: needs torchvision. What else holds for a type, and why one cannot be read, is in --json "
    "and in docs/families.md.",
    "Heads: published ones are the method's authors'; flmm convert makes them flmm's own.",
    "Any folder or hub id with a model of these types goes in --lmm, any head that was trained on "
    "it in --model.",
    "A SAM goes in --sam; a head keeps the one that it was trained with.",
)


@dataclass(frozen=True)
class FamilyRow:
    """An LMM family as the table and the JSON show it."""

    model_types: tuple[str, ...]
    adapter: str
    hub_ids: tuple[str, ...]
    verified: str
    heads: tuple[str, ...]
    """Embedded heads for an LMM of this family."""
    published: bool
    """Whether the method's authors published heads for LMMs of this family."""


@dataclass(frozen=True)
class HeadRow:
    """A head that comes with flmm."""

    name: str
    lmm: str
    model_type: str
    """The LMM's."""
    layers: int
    heads: int


def models(
    context: typer.Context,
    check: Annotated[
        str | None,
        typer.Option(
            "--check",
            metavar="LMM",
            show_default=False,
            help="Folder or hub id of an LMM: load it and check prompt, places of image tokens,"
            " recording and answers, instead of listing.",
        ),
    ] = None,
    picture: Annotated[
        list[Path] | None,
        typer.Option(
            "--picture",
            metavar="IMAGE",
            show_default=False,
            help="Check with this picture instead of the bundled one in three shapes; may be"
            " repeated.",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            show_default=False,
            help="Where the picture with the grid of image tokens goes; by default"
            " check-flmm.png (with --json, nowhere).",
        ),
    ] = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the LMMs and SAMs that flmm reads and the heads that come with it; check an LMM."""
    if check is not None:
        check_lmm(check, picture or [], out, device, dtype, as_json)
        return
    check_unused_options(context, "without --check, flmm models lists", {"as_json"})
    heads = _list_embedded_heads()
    families = [
        FamilyRow(
            family.model_types,
            family.class_name,
            family.hub_ids,
            _VERIFICATION_BY_MODEL_TYPE.get(family.model_types[0], _DEFAULT_VERIFICATION),
            tuple(head.name for head in heads if head.model_type in family.model_types),
            family.model_types[0] in _MODEL_TYPES_WITH_PUBLISHED_HEADS,
        )
        for family in list_families()
    ]
    supported = list_supported_types()
    if as_json:
        print_json(
            {
                "families": [asdict(row) for row in families],
                "transformers": supported.transformers,
                "types": [asdict(entry) for entry in supported.types],
                "sams": [
                    {"model_types": family.model_types, "hub_ids": family.hub_ids}
                    for family in list_segmenter_families()
                ],
                "heads": [asdict(row) for row in heads],
            }
        )
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(
        "LMM family", "for example", "heads", box=None, pad_edge=False, padding=(0, 2, 0, 0)
    )
    for column in table.columns:
        column.no_wrap = True
    for family in families:
        head_names = [*family.heads, *(["published"] if family.published else [])]
        table.add_row(
            "\n".join(family.model_types), "\n".join(family.hub_ids), "\n".join(head_names) or "–"
        )
    console.print(table)
    console.print()
    console.print(
        f"transformers {supported.transformers} has {len(supported.types)} types of LMMs:"
    )
    console.print(_type_table(supported))
    console.print()
    table = Table("SAM", "for example", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for segmenter in list_segmenter_families():
        table.add_row("\n".join(segmenter.model_types), "\n".join(segmenter.hub_ids))
    console.print(table)
    console.print()
    table = Table("head", "LMM", "layers", "heads", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for head in heads:
        table.add_row(head.name, head.lmm, str(head.layers), str(head.heads))
    console.print(table)
    console.print()
    for line in _NOTES:
        console.print(line)


def _type_table(supported: SupportedTypes) -> "Table":
    """The names of the types by who reads them; those of families stand above."""
    from rich.table import Table

    table = Table("types", "read", "which", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.columns[0].justify = "right"
    table.columns[1].max_width = 18
    for (reader, verified), label in _READER_LABELS.items():
        names = [
            entry.model_type + ("*" if entry.needs_torchvision else "")
            for entry in supported.types
            if (entry.reader, entry.verified) == (reader, verified)
        ]
        if names:
            listed = "" if reader == "own file" and verified else ", ".join(names)
            table.add_row(str(len(names)), label, listed)
    return table


def _list_embedded_heads() -> list[HeadRow]:
    rows = []
    parts = find_embedded_models()
    for name, folder in parts.items():
        if not name.startswith("embedded:head"):
            continue
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        lmm = config["base_model_name_or_path"]
        model_type = read_model_type(str(parts[lmm]))
        rows.append(HeadRow(name, lmm, model_type, config["layers"], config["heads"]))
    return rows
