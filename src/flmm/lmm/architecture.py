"""What a head depends on in an LMM: its family, and the sizes of what is recorded."""

from dataclasses import dataclass

from huggingface_hub.errors import StrictDataclassError
from transformers.models.auto.configuration_auto import AutoConfig

from flmm.errors import InputError, first_line
from flmm.lmm.auto import list_families, load_adapter_class
from flmm.lmm.base import LMMAdapter
from flmm.lmm.frozen_model import find_recorded_layers
from flmm.lmm.model_type import expand_home, read_model_type
from flmm.user_input import resolve_model


@dataclass(frozen=True)
class LMMArchitecture:
    """An LMM's type and sizes."""

    model_type: str
    """The ``model_type`` in its ``config.json``; empty if it is not known."""
    layers: int
    heads: int
    hidden_size: int
    views: int | None
    """None if it is not known before the LMM is loaded: the generic adapter finds it out."""

    @classmethod
    def of(cls, adapter: LMMAdapter) -> "LMMArchitecture":
        """Return that of a loaded LMM."""
        return cls(
            adapter.model_type, adapter.layers, adapter.heads, adapter.hidden_size, adapter.views
        )

    @property
    def sizes(self) -> str:
        """The sizes in words, the same for the same sizes."""
        return (
            f"{self.layers} layers, {self.heads} heads, width {self.hidden_size} and"
            f" {self.views} view(s) of a picture"
        )


def read_architecture(name: str, revision: str | None = None) -> LMMArchitecture:
    """Read an LMM's type and sizes from the ``config.json`` of its folder or hub repository.

    Args:
        name: a folder, a hub id, or "embedded:lmm".
        revision: of a hub id.

    Raises:
        InputError: the configuration cannot be found, or transformers does not know it.
    """
    name = expand_home(resolve_model(name))
    model_type = read_model_type(name, revision)
    views = [
        load_adapter_class(family).views
        for family in list_families()
        if model_type in family.model_types
    ]
    try:
        config = AutoConfig.from_pretrained(name, revision=revision, trust_remote_code=False)
        text_config = config.get_text_config(decoder=True)
        return LMMArchitecture(
            # That of the loaded model, which transformers may have renamed since it was published.
            config.model_type,
            len(find_recorded_layers(text_config)),
            int(text_config.num_attention_heads),
            int(text_config.hidden_size),
            views[0] if views else None,
        )
    except (OSError, ValueError, KeyError, AttributeError, StrictDataclassError) as error:
        raise InputError(
            f"LMM {name!r} has model_type {model_type!r}, whose sizes transformers cannot tell"
            f" ({first_line(error)}); name a model of a family that flmm models lists"
        ) from error
