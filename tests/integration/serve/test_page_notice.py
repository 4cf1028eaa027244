"""What the page says of pictures that the embedded model does not know."""

from pathlib import Path

from browsing import launch_chromium, text_of, visiting
from PIL import Image
from serving import run_server

from flmm.grounding.grounder import Grounder
from flmm.serve.settings import ServerSettings


def test_notice_beside_pictures_of_one_s_own(tmp_path: Path) -> None:
    with (
        launch_chromium() as browser,
        run_server(Grounder.from_pretrained(), ServerSettings(port=0)) as address,
        visiting(browser, address) as visit,
    ):
        notice = visit.page.locator("#notice")
        visit.choose_bundled()
        assert not notice.is_visible()
        Image.new("RGB", (60, 40), (200, 30, 60)).save(tmp_path / "photo.png")
        visit.page.locator("#file").set_input_files(tmp_path / "photo.png")
        notice.wait_for()
        assert text_of(notice).startswith(
            "The embedded model knows only pictures of its stickers: "
        )
        assert "--lmm" in text_of(notice)
        visit.page.get_by_role("button", name="Another picture").click()
        visit.choose_bundled()
        assert not notice.is_visible()
