"""``flmm serve``: the model over HTTP."""

from typing import Annotated

import typer

from flmm.cli.api_key import APIKeyOption
from flmm.cli.console import print_message
from flmm.cli.options import (
    DeviceOption,
    DtypeOption,
    LMMOption,
    ModelOption,
    SamOption,
    load_grounder,
    require_packages,
)

_REQUIRED_PACKAGES = ("fastapi", "uvicorn", "prometheus_client", "python_multipart")


def serve(
    model: ModelOption = None,
    lmm: LMMOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    host: Annotated[
        str, typer.Option(metavar="ADDRESS", help="0.0.0.0 lets other machines in.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 for any that is free.")] = 8000,
    api_key: APIKeyOption = None,
    queue: Annotated[
        int, typer.Option(min=1, help="Requests that are served or wait, before 429.")
    ] = 64,
    together: Annotated[int, typer.Option(min=1, help="Requests that are answered at once.")] = 16,
    allow_media_domains: Annotated[
        list[str] | None,
        typer.Option(
            metavar="HOST", show_default=False, help="Fetch pictures from it; may be repeated."
        ),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ORIGIN",
            show_default=False,
            help="Let its pages ask, as http://localhost:3000; may be repeated.",
        ),
    ] = None,
    max_body: Annotated[int, typer.Option(min=1, help="Bytes of a request.")] = 32 * 2**20,
    max_pixels: Annotated[int, typer.Option(min=1, help="Pixels of a picture.")] = 25_000_000,
    max_pictures: Annotated[int, typer.Option(min=1, help="Pictures of a conversation.")] = 8,
    max_prompt_tokens: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 32_768,
    max_tokens: Annotated[int, typer.Option(min=1, help="Tokens of an answer.")] = 1024,
    max_phrases: Annotated[int, typer.Option(min=1, help="Phrases of an answer.")] = 64,
) -> None:
    """Serve the model over HTTP, to OpenAI's clients and others; docs/serving.md says how."""
    require_packages("serve", *_REQUIRED_PACKAGES)
    from flmm.serve.settings import Limits, ServerSettings

    limits = Limits(
        body_bytes=max_body,
        pixels=max_pixels,
        pictures=max_pictures,
        prompt_tokens=max_prompt_tokens,
        answer_tokens=max_tokens,
        phrases=max_phrases,
    )
    settings = ServerSettings(
        host=host,
        port=port,
        api_key=api_key,
        queue_capacity=queue,
        max_batch_size=together,
        media_domains=tuple(allow_media_domains or ()),
        allowed_origins=tuple(allow_origin or ()),
        limits=limits,
    )
    from flmm.serve.server import serve as run  # takes seconds

    run(load_grounder(model, lmm, sam, device, dtype), settings, print_message)
