"""``flmm models``: the LMM families, how each is verified, and the heads that are here."""

import json
from dataclasses import asdict, dataclass

from flmm.cli.console import print_json
from flmm.cli.options import Json
from flmm.lmm import families, read_model_type
from flmm.user_input import embedded_parts

# What stands behind each family, by its model type; one without an entry has the contract tests.
_VERIFIED = {
    "llava": "contract tests; flmm's own trained model, end to end",
}
_CONTRACT = "contract tests, small random model"


@dataclass(frozen=True)
class FamilyRow:
    """An LMM family as the table and the JSON show it."""

    model_types: tuple[str, ...]
    adapter: str
    hub_ids: tuple[str, ...]
    verified: str
    heads: tuple[str, ...]
    """Heads that are here for an LMM of this family."""


@dataclass(frozen=True)
class HeadRow:
    """A head that can be used at once."""

    name: str
    lmm: str
    model_type: str
    """The LMM's."""
    layers: int
    heads: int


def models(as_json: Json = False) -> None:
    """List the LMM families that flmm reads and the heads that come with it."""
    here = _heads()
    known = [
        FamilyRow(
            family.model_types,
            family.adapter,
            family.hub_ids,
            _VERIFIED.get(family.model_types[0], _CONTRACT),
            tuple(head.name for head in here if head.model_type in family.model_types),
        )
        for family in families()
    ]
    if as_json:
        print_json(
            {"families": [asdict(row) for row in known], "heads": [asdict(row) for row in here]}
        )
        return
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in ("LMM family", "for example", "verified by", "heads"):
        table.add_column(title, overflow="fold", no_wrap=title == "for example")
    for family in known:
        names, examples = "\n".join(family.model_types), "\n".join(family.hub_ids)
        heads = "\n".join(family.heads) or "none yet"
        table.add_row(names, examples, family.verified, heads)
    console.print(table)
    console.print()
    table = Table("head", "LMM", "layers", "heads", box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for head in here:
        table.add_row(head.name, head.lmm, str(head.layers), str(head.heads))
    console.print(table)
    console.print()
    console.print("Any folder or hub id with a model of these families goes in --lmm, any head")
    console.print(
        "that was trained on it in --model. An LMM of another family is tried too: one that"
    )
    console.print(
        "shows each picture whole, as a grid of image tokens, needs no adapter of its own."
    )


def _heads() -> list[HeadRow]:
    rows = []
    parts = embedded_parts()
    for name, folder in parts.items():
        if not name.startswith("embedded:head"):
            continue
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        lmm = config["base_model_name_or_path"]
        model_type = read_model_type(str(parts[lmm]))
        rows.append(HeadRow(name, lmm, model_type, config["layers"], config["heads"]))
    return rows
