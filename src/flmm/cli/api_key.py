"""The API key of what is served over HTTP."""

from typing import Annotated

import typer

from flmm.errors import InputError


def _check_api_key(api_key: str | None) -> str | None:
    if api_key is not None and not (api_key.isascii() and api_key.strip()):
        raise InputError("the API key is empty or not ASCII; choose another")
    return api_key


APIKeyOption = Annotated[
    str | None,
    typer.Option(
        "--api-key",
        envvar="FLMM_API_KEY",
        callback=_check_api_key,
        metavar="KEY",
        show_default=False,
        show_envvar=False,
        help="Asked of every request; better set as FLMM_API_KEY, which no process list shows.",
    ),
]
