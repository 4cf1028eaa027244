"""``flmm bench``: the time and memory that flmm takes on this machine."""

from dataclasses import asdict
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from flmm.cli.console import print_json, print_message, show_spinner
from flmm.cli.options import (
    DeviceOption,
    DtypeOption,
    JsonOption,
    LMMOption,
    ModelOption,
    SamOption,
    check_unused_options,
    load_grounder,
    require_packages,
)
from flmm.errors import InputError

if TYPE_CHECKING:
    import torch
    from rich.table import Table

    from flmm.bench.models import LLMSize
    from flmm.bench.record import ChatCost, ChatSetting

app = typer.Typer(help="Measure what flmm costs on this machine, on random LMMs of real sizes.")

SizeName = Literal["0.5B", "small"]
SizeOption = Annotated[
    SizeName,
    typer.Option("--size", help="The LLM: as large as Qwen2-0.5B, or tiny, to try the command."),
]


class ImageTokenCount(StrEnum):
    """How many image tokens the random LMM has."""

    ONE_VIEW = "576"
    TILES = "2880"


@app.callback()
def _bench() -> None:
    """Measure what flmm costs on this machine, on random LMMs of real sizes."""


@app.command()
def record(
    image_tokens: Annotated[
        list[ImageTokenCount] | None,
        typer.Option(help="Of the picture; by default both."),
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each answer.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each mode runs.")] = 3,
    size: SizeOption = "0.5B",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Chat while recording beside plain chat and eager attention; grounding; loading."""
    from rich.console import Console
    from rich.progress import Progress
    from transformers.utils.logging import disable_progress_bar

    from flmm.bench import head, load
    from flmm.bench.models import ImageTokens
    from flmm.bench.record import ChatSetting, measure
    from flmm.user_input import resolve_device

    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch_device = resolve_device(device)
    if torch_device.type not in ("cpu", "cuda"):
        raise InputError(f"--device is {str(torch_device)!r}; the benchmark knows cpu and cuda")
    device_name, sizes = str(torch_device), _llm_size(size)
    torch_dtype = _dtype_on(torch_device, dtype)
    layouts: dict[ImageTokenCount, ImageTokens] = {
        ImageTokenCount.ONE_VIEW: 576,
        ImageTokenCount.TILES: 2880,
    }
    settings = [
        ChatSetting(layouts[count], sizes, new_tokens, device_name, torch_dtype)
        for count in image_tokens or layouts
    ]
    with Progress(console=Console(stderr=True)) as progress:
        # Each setting builds its model and measures time and memory of three modes.
        bar = progress.add_task("starting", total=len(settings) * (1 + 6 * repeats) + 2)

        def on_stage(description: str) -> None:
            progress.update(bar, description=description, advance=1)

        chats = [(setting, measure(setting, repeats, on_stage)) for setting in settings]
        on_stage("grounding")
        grounding = head.measure(sizes, device_name, repeats)
        on_stage("loading")
        loading = load.measure(settings[0])
        progress.update(bar, completed=progress.tasks[bar].total)
    if as_json:
        chat_rows = [
            {"image_tokens": setting.image_tokens, "map_bytes": setting.map_bytes, **asdict(cost)}
            for setting, costs in chats
            for cost in costs
        ]
        print_json({"chat": chat_rows, "grounding": asdict(grounding), "loading": asdict(loading)})
        return
    console = Console(highlight=False)
    console.print(_chat_table(chats))
    console.print()
    console.print(
        f"{head.NUM_PHRASES} phrases in a batch: {grounding.all_phrases:.2f} s, one"
        f" {grounding.one_phrase:.2f} s; ÷ as many single ones {grounding.ratio:.2f}"
    )
    peak = (
        "at most – held"
        if loading.peak is None
        else f"at most {_format_megabytes(loading.peak)} held; ÷ weights"
        f" {loading.peak / loading.weights:.2f}"
    )
    console.print(f"loading: weights {_format_megabytes(loading.weights)}, {peak}")


@app.command()
def chat(
    image_tokens: Annotated[
        list[ImageTokenCount] | None,
        typer.Option(help="Of the picture; by default both."),
    ] = None,
    together: Annotated[
        list[int] | None,
        typer.Option(min=1, help="Answers generated together; by default 1 and 16."),
    ] = None,
    new_tokens: Annotated[int, typer.Option(min=2, help="Tokens of each answer.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each way runs.")] = 3,
    size: SizeOption = "0.5B",
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """An answer beside transformers' own, recorded, and with its masks; alone and together."""
    from rich.console import Console
    from rich.table import Table
    from transformers.utils.logging import disable_progress_bar

    from flmm.bench import chat as chat_bench
    from flmm.user_input import resolve_device

    disable_progress_bar()  # type: ignore[no-untyped-call]
    torch_device = resolve_device(device)
    costs, reason = [], None
    for count in image_tokens or ImageTokenCount:
        measured, reason = chat_bench.measure(
            576 if count is ImageTokenCount.ONE_VIEW else 2880,
            _llm_size(size),
            together or (1, 16),
            new_tokens,
            str(torch_device),
            _dtype_on(torch_device, dtype),
            repeats,
            print_message,
        )
        costs += measured
    if as_json:
        print_json({"chat": [asdict(cost) for cost in costs], "engine_unused": reason})
        return
    table = Table("image tokens", "together", "chat", "seconds", "÷ transformers", box=None)
    for cost in costs:
        table.add_row(
            str(cost.image_tokens), str(cost.answers), cost.way, f"{cost.seconds:.2f}",
            f"{cost.ratio:.3f}",
        )  # fmt: skip
    Console(highlight=False).print(table)
    if reason is not None:
        print_message(f"flmm's engine does not run this LMM: {reason}")


@app.command()
def ground(
    context: typer.Context,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each runs.")] = 3,
    size: SizeOption = "0.5B",
    model: ModelOption = None,
    lmm: LMMOption = None,
    sam: SamOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Ground a given text, beside the LMM's own forward pass; --lmm or --model measures yours."""
    from flmm.bench.ground import build_random_grounder, measure
    from flmm.user_input import resolve_device

    if model is None and lmm is None:
        situation = "without --lmm and --model, flmm bench ground measures a random model"
        used = {"repeats", "size", "device", "dtype", "as_json"}
        check_unused_options(context, situation, used)
        torch_device = resolve_device(device)
        grounder = build_random_grounder(
            _llm_size(size), str(torch_device), _dtype_on(torch_device, dtype)
        )
    else:
        used = {"repeats", "model", "lmm", "sam", "device", "dtype", "as_json"}
        check_unused_options(context, "--lmm and --model name the model to measure", used)
        grounder = load_grounder(model, lmm, sam, device, dtype)
    with show_spinner("measuring"):
        cost = measure(grounder, repeats)
    if as_json:
        print_json(asdict(cost))
        return
    print(
        f"the LMM's own forward pass {cost.forward:.2f} s; ground {cost.ground:.2f} s up to the"
        f" masks, ÷ forward pass {cost.ratio:.3f}; masks of {cost.phrases} phrases"
        f" {cost.masks:.2f} s"
    )


@app.command()
def train(
    pictures: Annotated[int, typer.Option(min=1, help="Sticker scenes to learn from.")] = 2,
    epochs: Annotated[int, typer.Option(min=1)] = 8,
    size: SizeOption = "0.5B",
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Training from the cache beside training without it, and beside the paper's authors' way.

    With a random LMM and SAM ViT-L's random vision encoder: about half an hour on two cores.
    """
    require_packages("train", "accelerate", "yaml")
    from rich.console import Console
    from rich.table import Table
    from transformers.utils.logging import disable_progress_bar

    from flmm.bench.train import REAL_SIZES, SMALL_SIZES, measure
    from flmm.user_input import resolve_device

    disable_progress_bar()  # type: ignore[no-untyped-call]
    sizes = REAL_SIZES if size == "0.5B" else SMALL_SIZES
    costs = measure(sizes, pictures, epochs, str(resolve_device(device)), print_message)
    if as_json:
        print_json(
            {"pictures": pictures, "epochs": epochs, "ways": [asdict(cost) for cost in costs]}
        )
        return
    table = Table("training", "seconds", "÷ cached", box=None, pad_edge=False)
    for cost in costs:
        table.add_row(cost.way, f"{cost.seconds:.1f}", f"{cost.ratio:.2f}")
    Console(highlight=False).print(table)


def _llm_size(size: SizeName) -> "LLMSize":
    from flmm.bench.models import HALF_BILLION, SMALL

    return HALF_BILLION if size == "0.5B" else SMALL


def _dtype_on(device: "torch.device", dtype: str | None) -> "torch.dtype":
    """Return the dtype that the option names, or that in which LMMs usually run on the device."""
    import torch

    from flmm.user_input import parse_dtype

    return parse_dtype(dtype) or (torch.float32 if device.type == "cpu" else torch.bfloat16)


def _chat_table(chats: "list[tuple[ChatSetting, list[ChatCost]]]") -> "Table":
    from rich.table import Table

    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    table.add_column("image tokens")
    table.add_column("chat")
    for title in ("seconds", "÷ plain", "extra memory", "maps alone"):
        table.add_column(title, justify="right")
    for setting, costs in chats:
        for cost in costs:
            extra = "–" if cost.extra_bytes is None else _format_megabytes(cost.extra_bytes)
            maps = _format_megabytes(setting.map_bytes) if cost.mode == "recorded" else ""
            table.add_row(
                str(setting.image_tokens), cost.mode, f"{cost.seconds:.2f}",
                f"{cost.time_ratio:.3f}", extra, maps,
            )  # fmt: skip
    return table


def _format_megabytes(count: int) -> str:
    return f"{count / 1e6:,.0f} MB"
