import tomllib
from pathlib import Path

from cri_proxy import settings
from cri_proxy.settings import keys, page

PAGE = Path(__file__).parents[2] / "docs" / "settings.md"


def test_the_committed_page_is_what_the_table_says():
    written = PAGE.read_text("utf-8")

    assert written == page.markdown(), "run: python -m cri_proxy.settings.page > docs/settings.md"


def test_the_file_on_the_page_gives_the_defaults(tmp_path):
    file = tmp_path / "config.toml"
    file.write_text(page.markdown().partition("```toml\n")[2].partition("```")[0])

    loaded = settings.load(environment={}, file=str(file))

    assert loaded.settings == settings.Settings()
    assert len(tomllib.loads(file.read_text())) == len(keys.SECTIONS)


def test_the_listing_tells_every_key_and_variable():
    listing = page.listing()

    for key in keys.KEYS:
        assert f"  {key}   " in listing
        assert f"{key.variable}\n" in listing
