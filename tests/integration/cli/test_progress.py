"""The progress bar of commands."""

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


def test_without_a_terminal_lines_now_and_then_tell_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 10.0)
    now = 0.0
    for clock in ("time.monotonic", "rich.console.monotonic"):
        monkeypatch.setattr(clock, lambda: now)
    with console.show_stage_progress("measuring", shown=True) as progress:
        for done in range(1, 9):
            now += 4
            progress(done, 1000)
    # Every four seconds a step, every ten seconds a line.
    assert capsys.readouterr().err.splitlines() == [
        "flmm: 3 of 1,000, 1:06:28 left: measuring",
        "flmm: 6 of 1,000, 1:06:16 left: measuring",
    ]


def test_the_only_process_that_shows_progress_is_the_first(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(console, "SECONDS_BETWEEN_LINES", 0.0)
    for shown in (True, False):
        with console.show_stage_progress("measuring", shown) as progress:
            progress(0, 0)
    assert capsys.readouterr().err == "flmm: 0 of 0, 0:00:00 left: measuring\n"
