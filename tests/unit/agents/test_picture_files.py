"""Which paths of agents lead to pictures, and which are refused."""

import os
from pathlib import Path

import pytest

from flmm.errors import InputError
from flmm.mcp.picture_files import AllowedFolders


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with pictures, links of all kinds, and a picture beside it."""
    folder = tmp_path / "pictures"
    (folder / "inner").mkdir(parents=True)
    (folder / "a.png").write_bytes(b"a")
    (folder / "inner" / "b.png").write_bytes(b"b")
    (folder / "large.png").write_bytes(b"x" * 101)
    (tmp_path / "secret.png").write_bytes(b"secret")
    (folder / "link.png").symlink_to(tmp_path / "secret.png")
    (folder / "inside.png").symlink_to(folder / "a.png")
    (folder / "up").symlink_to(tmp_path)
    os.mkfifo(folder / "pipe.png")
    (tmp_path / "pictures-of-others").mkdir()
    (tmp_path / "pictures-of-others" / "c.png").write_bytes(b"c")
    return folder


def read(root: Path, name: str) -> bytes:
    return AllowedFolders.from_paths([root], 100).read(name)


def test_files_below_a_folder_are_read(root: Path, tmp_path: Path) -> None:
    assert read(root, "a.png") == b"a"
    assert read(root, "inner/b.png") == read(root, "./inner//b.png") == b"b"
    assert read(root, str(root / "inner" / "b.png")) == b"b"
    other = tmp_path / "pictures-of-others"
    both = AllowedFolders.from_paths([root, other], 100)
    assert both.read("c.png") == both.read(str(other / "c.png")) == b"c"


def test_a_folder_may_be_a_link_itself(root: Path, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(root)
    assert read(link, "a.png") == read(link, str(link / "a.png")) == b"a"
    assert read(link, str(root / "a.png")) == b"a"


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("../secret.png", "has '..'; give it without"),
        ("inner/../a.png", "has '..'; give it without"),
        ("{root}/../secret.png", "has '..'; give it without"),
        ("{beside}/secret.png", "is not below"),
        ("{root}-of-others/c.png", "is not below"),
        ("/etc/passwd", "is not below"),
        ("link.png", "has a symbolic link, which is not followed"),
        ("inside.png", "has a symbolic link, which is not followed"),
        ("up/secret.png", "has a symbolic link, which is not followed"),
        ("file:///etc/passwd", "is no path here; give one such as"),
        ("https://example.org/a.png", "is no path here"),
        ("C:\\a.png", "is no path here"),
        ("C:/a.png", "is no path here"),
        ("\\\\host\\share\\a.png", "is no path here"),
        ("inner\\b.png", "is no path here"),
        ("a.png\0.jpg", "is no path here"),
        ("none.png", "there is no picture 'none.png'; check the path"),
        ("a.png/b.png", "there is no picture"),
        ("~/a.png", "there is no picture"),
        ("x" * 3000, "cannot be read"),
        ("inner", "is no file; give a picture's path"),
        (".", "is no file; give a picture's path"),
        ("pipe.png", "is no file; give a picture's path"),
        ("large.png", "has 101 bytes; give a picture of at most 100"),
    ],
)
def test_other_paths_are_refused_in_one_line(root: Path, name: str, part: str) -> None:
    with pytest.raises(InputError) as raised:
        read(root, name.format(root=root, beside=root.parent))
    assert part in str(raised.value)
    assert "\n" not in str(raised.value)


def test_without_folders_no_path_is_read(root: Path) -> None:
    with pytest.raises(InputError, match="no paths are read here; send a data URL, or start"):
        AllowedFolders.from_paths([], 100).read(str(root / "a.png"))
    with pytest.raises(InputError, match="is no folder; give one with pictures"):
        AllowedFolders.from_paths([root / "a.png"], 100)
