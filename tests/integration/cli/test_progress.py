"""The progress bar of commands."""

from datetime import timedelta

import pytest

from flmm.cli import console


def test_stages_with_the_same_number_of_steps_have_their_own_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda: True)
    with console.show_progress() as progress:
        for done in (1, 2, 3, 4, 1):
            progress(done, 4, "training")
    _, last_stage, times = capsys.readouterr().err.rpartition("1/4")
    assert last_stage
    assert "-:--:--" in times  # not yet known, where the first stage's would be 0:00:00


@pytest.mark.parametrize(
    ("seconds", "lines"),
    [
        # A line every ten seconds, and at the end.
        (
            4,
            [
                "flmm: 3 of 1,008, 1:07:00 left: measuring",
                "flmm: 6 of 1,008, 1:06:48 left: measuring",
                "flmm: 1,008 of 1,008, 0:00:00 left: measuring",
            ],
        ),
        # The first step's time is unknown: what is on disk may be in it.
        (
            100,
            [
                "flmm: 1 of 1,008: measuring",
                *(
                    f"flmm: {done} of 1,008, {timedelta(seconds=left)} left: measuring"
                    for done, left in ((step, 100 * (1008 - step)) for step in range(2, 7))
                ),
                "flmm: 1,008 of 1,008, 0:00:00 left: measuring",
            ],
        ),
        (1, []),
    ],
)
def test_without_a_terminal_lines_now_and_then_tell_the_time_left(
    seconds: int,
    lines: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 10.0)
    now = 0.0
    for clock in ("time.monotonic", "rich.console.monotonic"):
        monkeypatch.setattr(clock, lambda: now)
    with console.show_stage_progress("measuring", shown=True) as progress:
        for done in (1, 2, 3, 4, 5, 6, 1008):
            now += seconds
            progress(done, 1008)
        for _ in range(2):  # as validation after the last step
            now += 1
            progress(1008, 1008)
    assert capsys.readouterr().err.splitlines() == lines


def test_brackets_in_a_name_are_shown(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "is_terminal", lambda: True)
    with console.show_stage_progress("measuring [/] [red]x", shown=True) as progress:
        progress(1, 2)
    assert "measuring [/] [red]x" in capsys.readouterr().err


def test_the_only_process_that_shows_progress_is_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    for shown in (True, False):
        with console.show_stage_progress("measuring", shown) as progress:
            progress(0, 0)
    assert capsys.readouterr().err == "flmm: 0 of 0, 0:00:00 left: measuring\n"
