"""``flmm models``: the families of LMMs and SAMs, and the embedded heads."""

import json
from dataclasses import asdict, dataclass

from flmm.cli.console import print_json
from flmm.cli.options import JsonOption
from flmm.lmm.auto import list_families
from flmm.lmm.model_type import read_model_type
from flmm.segmenters.auto import list_segmenter_families
from flmm.user_input import find_embedded_models

# How a family is verified, by its model type; the others by the contract tests.
_VERIFICATION_BY_MODEL_TYPE = {
    "llava": "contract tests; flmm's own trained model, end to end",
}
_DEFAULT_VERIFICATION = "contract tests, small random model"

# Families of which the method's authors published heads (paper table 1), for `flmm convert`.
_MODEL_TYPES_WITH_PUBLISHED_HEADS = frozenset(
    {"llava", "llava_next", "deepseek_vl", "deepseek_vl_hybrid"}
)


_NOTES = (
    "Verified: every family by the contract tests, on a small random model with all its features; "
    "llava also by flmm's own trained model, end to end.",
    "Heads: published ones are the method's authors'; flmm convert makes them flmm's own.",
    "Any folder or hub id with a model of these families goes in --lmm, any head that was trained "
    "on it in --model. An LMM of another family is tried too: flmm finds out where its image "
    "tokens lie in the picture, or says why it cannot.",
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


def models(as_json: JsonOption = False) -> None:
    """List the families of LMMs and SAMs that flmm reads and the heads that come with it."""
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
    if as_json:
        print_json(
            {
                "families": [asdict(row) for row in families],
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
