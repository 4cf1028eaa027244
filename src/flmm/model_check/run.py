"""All checks of an LMM, and the figure of where its image tokens lie."""

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from flmm.answers.grid_figure import GridPanel, draw_grids
from flmm.lmm.base import LMMAdapter
from flmm.lmm.prompt import PictureView, Prompt
from flmm.model_check.outcome import CheckOutcome
from flmm.model_check.places import check_places, find_feature_indices
from flmm.model_check.prompts import check_prompts
from flmm.model_check.recording import check_answers, check_recorded_attention
from flmm.progress import ProgressCallback, no_progress

CHECKED_SIZES = ((640, 640), (960, 640), (320, 1280))
"""(width, height) of the pictures: 1:1, 3:2 and 1:4."""


@dataclass(frozen=True, eq=False)
class ModelCheck:
    """The outcomes of all checks of an LMM."""

    outcomes: tuple[CheckOutcome, ...]
    views: tuple[tuple[PictureView, ...], ...]
    """Of each picture; positions count the picture's image tokens."""
    figure: Image.Image | None
    """Every grid over its picture; None if image tokens have no known place."""

    @property
    def passed(self) -> bool:
        """Whether no check found a mistake."""
        return all(outcome.status != "not ok" for outcome in self.outcomes)


def check_model(
    adapter: LMMAdapter,
    pictures: Sequence[Image.Image],
    on_progress: ProgressCallback = no_progress,
) -> ModelCheck:
    """Run all checks.

    Args:
        adapter: the LMM.
        pictures: at least one; the first is also talked about.
        on_progress: called before each check.

    Raises:
        InputError: a picture cannot be shown to the LMM.
    """
    total = len(pictures) + 3
    on_progress(0, total, "prompt")
    outcomes = [check_prompts(adapter, pictures)]
    for picture in pictures:
        on_progress(len(outcomes), total, "image tokens")
        outcomes.append(check_places(adapter, picture))
    for name, check in (
        ("recorded attention", check_recorded_attention),
        ("answer", check_answers),
    ):
        on_progress(len(outcomes), total, name)
        outcomes.append(check(adapter, pictures[0]))
    on_progress(total, total, "done")
    if adapter.placeless_reason is not None:
        return ModelCheck(tuple(outcomes), ((),) * len(pictures), None)
    views = tuple(_find_views(adapter, adapter.build_prompt(picture, "?")) for picture in pictures)
    return ModelCheck(tuple(outcomes), views, _draw(pictures, views))


def _find_views(adapter: LMMAdapter, prompt: Prompt) -> tuple[PictureView, ...]:
    """Return the views of the prompt's picture, each once; positions count its image tokens."""
    views = [
        PictureView(find_feature_indices(adapter, prompt, view), view.geometry)
        for view in prompt.picture_views[0]
    ]
    # A picture that is not cut up has one view, which is then both coarse and fine.
    return tuple(
        view
        for index, view in enumerate(views)
        if not any(view.token_positions.equal(other.token_positions) for other in views[:index])
    )


def _draw(pictures: Sequence[Image.Image], views: Sequence[Sequence[PictureView]]) -> Image.Image:
    return draw_grids(
        [
            (picture, [_make_panel(picture, view, number) for number, view in enumerate(shown)])
            for picture, shown in zip(pictures, views, strict=True)
        ]
    )


def _make_panel(picture: Image.Image, view: PictureView, number: int) -> GridPanel:
    tokens = view.token_positions
    height, width = view.geometry.grid
    return GridPanel(
        # The font has no ×.
        f"{picture.width}x{picture.height} pixels, grid {number}: {height}x{width} image tokens",
        view.geometry,
        (int(tokens[0, 0]), int(tokens[0, -1]), int(tokens[-1, 0]), int(tokens[-1, -1])),
    )
