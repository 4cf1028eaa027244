"""``flmm batch`` on several machines: options that do not go together are refused."""

from importlib.util import find_spec as real_find_spec

import pytest
from command import run_in_process


@pytest.mark.parametrize(
    ("options", "part"),
    [
        (["--engine", "ray"], "this needs ray, not installed here; pip install 'flmm[ray]'"),
        (["--workers", "2-8"], "--workers 2-8 is for --engine ray; give one number"),
        (["--workers", "0"], "--workers is '0'; give a number, or such as 2-8"),
        (["--workers", "many"], "--workers is 'many'"),
        (["--address", "auto"], "--address 'auto' is for --engine ray; give both"),
        (["--shard", "3/3"], "--shard is '3/3'; give one such as 0/3"),
        (["--out", "s3://bucket/results"], "--out 's3://bucket/results' is an address"),
    ],
)
def test_options_that_cannot_be(
    options: list[str],
    part: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(
        "flmm.cli.options.find_spec", lambda name: None if name == "ray" else real_find_spec(name)
    )
    ended = run_in_process(["batch", "pictures", "Why?", *options], capsys)
    assert ended.code == 2
    assert part in ended.err
    assert ended.err.count("\n") == 1
