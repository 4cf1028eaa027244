"""Loading of a frozen model's published weights, all of which must be there."""

import logging
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TypedDict, TypeVar, cast

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError
from transformers.modeling_utils import PreTrainedModel

from flmm.errors import InputError, first_line

Model = TypeVar("Model", bound=PreTrainedModel)

_HARMLESS_UNEXPECTED_WEIGHTS = re.compile(
    r"(^|\.)(mtp\.|multi_token_prediction|inv_freq$|position_ids$|num_batches_tracked$)"
)
"""Weights of checkpoints that transformers' classes leave out: layers that guess several tokens
ahead, and buffers that older versions saved and newer ones compute. ``from_pretrained`` leaves
aside only those that the class itself declares."""
_MAX_NAMES = 3


class _LoadingInfo(TypedDict):
    """What ``from_pretrained`` says about a checkpoint, apart from tied and declared weights."""

    missing_keys: set[str]
    unexpected_keys: set[str]
    mismatched_keys: set[tuple[str, tuple[int, ...], tuple[int, ...]]]


def load_pretrained(
    model_class: type[Model], role: str, name: str | Path, **kwargs: object
) -> Model:
    """Load a model of transformers from a folder or the hub, if every weight of it is there.

    transformers itself fills missing weights with random numbers and only warns about them.

    Args:
        model_class: the model's class.
        role: what errors call the model, as "LMM".
        name: a folder or hub id.
        kwargs: for ``from_pretrained``.

    Raises:
        InputError: there is no such model; a file of it is missing, cut short or damaged, or its
            configuration has a wrong value; weights are missing, unknown or of another shape, tied
            weights and known buffers aside; or a package that ``kwargs`` needs is not installed.
    """
    model, info = _load(model_class, role, name, kwargs)
    _check_is_whole(model_class, role, name, info)
    return model


def load_pretrained_encoder(model_class: type[Model], role: str, name: str | Path) -> Model:
    """Load a model of which only the last hidden states are used, as ``load_pretrained`` does.

    Its files may also have the weights of any head, and may lack those of a pooler.

    Raises:
        InputError: as ``load_pretrained``.
    """
    model, info = _load(model_class, role, name, {})
    needed = {weight for weight in info["missing_keys"] if not weight.startswith("pooler.")}
    _check_is_whole(
        model_class, role, name, {**info, "missing_keys": needed, "unexpected_keys": set()}
    )
    return model


def _load(
    model_class: type[Model], role: str, name: str | Path, kwargs: dict[str, object]
) -> tuple[Model, _LoadingInfo]:
    """Load a model, and say which weights were missing, unknown or of another shape.

    Raises:
        InputError: as ``load_pretrained``, but for such weights.
    """
    # transformers types from_pretrained only for the settings of its configurations.
    load = cast(Callable[..., tuple[Model, _LoadingInfo]], model_class.from_pretrained)
    try:
        with _without_loading_report():
            return load(name, output_loading_info=True, ignore_mismatched_sizes=True, **kwargs)
    except (SafetensorError, UnpicklingError, EOFError) as error:
        raise InputError(
            f"{role} {str(name)!r} cannot be loaded: a file of its weights is cut short or damaged"
            f" ({first_line(error)}); copy or download it again"
        ) from error
    except KeyError as error:
        # Of a table of transformers, as of activations; a damaged pickle can raise it too.
        raise InputError(
            f"{role} {str(name)!r} cannot be loaded: transformers does not know"
            f" {first_line(error)} in its config.json (or in a damaged file of its weights);"
            " correct it, or download the model again"
        ) from error
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{role} {str(name)!r} cannot be loaded: its config.json has a wrong value ({reason})"
        ) from error
    # re.error: of the names that a quantization_config skips.
    except (OSError, ValueError, ImportError, RuntimeError, re.error) as error:
        raise InputError(f"{role} {str(name)!r} cannot be loaded: {first_line(error)}") from error


def _check_is_whole(
    model_class: type[PreTrainedModel], role: str, name: str | Path, info: _LoadingInfo
) -> None:
    """Check that a checkpoint has all weights and no others.

    Raises:
        InputError: it lacks some or has too many; names them.
    """
    if problem := _find_problem(info):
        raise InputError(
            f"{role} {str(name)!r} cannot be loaded as {model_class.__name__}: its files {problem};"
            " copy or download them again, or save the whole model with its save_pretrained"
        )


def _find_problem(info: _LoadingInfo) -> str | None:
    """Describe what a checkpoint lacks or has too much; None if it is whole."""
    unexpected = {
        name for name in info["unexpected_keys"] if not _HARMLESS_UNEXPECTED_WEIGHTS.search(name)
    }
    mismatched = (
        f"{name} {list(found)} instead of {list(expected)}"
        for name, found, expected in info["mismatched_keys"]
    )
    problems = (
        _list_some("lack {}", info["missing_keys"]),
        _list_some("have {} of another shape", mismatched),
        _list_some("have {} that it does not know", unexpected),
    )
    return " and ".join(filter(None, problems)) or None


def _list_some(template: str, names: Iterable[str]) -> str:
    """Return "lack 5 weights (a, b, c and 2 more)" for "lack {}", or nothing without names."""
    ordered = sorted(names)
    if not ordered:
        return ""
    more = f" and {len(ordered) - _MAX_NAMES} more" if len(ordered) > _MAX_NAMES else ""
    weights = "1 weight" if len(ordered) == 1 else f"{len(ordered)} weights"
    return f"{template.format(weights)} ({', '.join(ordered[:_MAX_NAMES])}{more})"


@contextmanager
def _without_loading_report() -> Iterator[None]:
    """Leave out transformers' table of missing and unknown weights, which one line replaces.

    Also its warning that a class for pictures reads the files of a model for videos, as intended.
    """
    loggers = [
        logging.getLogger(f"transformers.{module}")
        for module in ("modeling_utils", "configuration_utils")
    ]

    def is_no_report(record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return "LOAD REPORT" not in message and "using a model of type" not in message

    for logger in loggers:
        logger.addFilter(is_no_report)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(is_no_report)
