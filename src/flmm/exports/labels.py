"""Labels of phrases: a YAML file from phrases to labels."""

from collections.abc import Mapping
from pathlib import Path

from flmm.errors import InputError, first_line


class LabelMap:
    """Labels of phrases, whatever their case and white space.

    Args:
        label_of_phrase: from phrases to labels.
    """

    def __init__(self, label_of_phrase: Mapping[str, str]) -> None:
        self._label_of_phrase = {
            _normalise(phrase): label for phrase, label in label_of_phrase.items()
        }
        self.phrases = list(label_of_phrase)
        """As they are written."""
        self.labels = list(dict.fromkeys(label_of_phrase.values()))
        """The distinct labels, in their order."""

    def find(self, phrase: str) -> str | None:
        """Return the phrase's label; None where it has none."""
        return self._label_of_phrase.get(_normalise(phrase))


def read_label_map(file: Path) -> LabelMap:
    """Read a YAML file such as ``the dog on the left: dog``.

    Raises:
        InputError: it cannot be read, or is no mapping from texts to texts.
    """
    import yaml

    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise InputError(
            f"the labels {str(file)!r} cannot be read ({first_line(error)})"
        ) from error
    if not isinstance(content, dict) or not content:
        raise InputError(
            f"{str(file)!r} is no mapping; write lines such as 'the dog on the left: dog'"
        )
    for phrase, label in content.items():
        # YAML reads words such as yes, no and 7 as other things than texts.
        if not isinstance(phrase, str) or not isinstance(label, str) or not label.strip():
            raise InputError(
                f"{str(file)!r} has {phrase!r}: {label!r}; give texts, in quotes if needed"
            )
    return LabelMap(content)


def _normalise(phrase: str) -> str:
    return " ".join(phrase.casefold().split())
