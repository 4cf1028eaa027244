"""What a check of an LMM found out."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Status = Literal["ok", "not ok", "not checked"]


@dataclass(frozen=True)
class CheckOutcome:
    """The outcome of one check."""

    check: str
    status: Status
    detail: str
    """What was measured, or why nothing was; one line."""
    measured: Mapping[str, float] = field(default_factory=dict)
