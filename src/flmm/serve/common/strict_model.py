"""What the models of all requests are built from; quick to import."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

Text = Annotated[str, Field(max_length=1_000_000)]
PositiveCount = Annotated[int, Field(ge=1, le=1_000_000)]
TokenLimit = Annotated[int, Field(ge=1)]
"""Of an answer; above the server's own limit it means that one."""
Temperature = Annotated[float, Field(ge=0, le=2, description="0 takes the likeliest token.")]
Seed = Annotated[int, Field(ge=-(2**63), lt=2**63)]


class StrictModel(BaseModel):
    """A model that converts no types and refuses unknown fields; a null means the default."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _drop_nulls(cls, value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {
            name: part
            for name, part in value.items()
            if part is not None or name not in cls.model_fields
        }
