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
