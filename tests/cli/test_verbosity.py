"""What interactive commands log."""

import pytest

from cri_proxy import settings
from cri_proxy.cli import verbosity


@pytest.mark.parametrize(
    ("overrides", "level", "form"),
    [
        ([], "error", "text"),
        (["log.level=debug"], "debug", "text"),
        (["log.format=json"], "error", "json"),
        (["log.level=info", "log.format=json"], "info", "json"),
        (["store.workers=2"], "error", "text"),
    ],
)
def test_only_what_the_user_did_not_set_is_changed(overrides, level, form):
    loaded = settings.load(overrides=overrides, environment={})

    changed = verbosity.settings_of(loaded, "error")

    assert (changed.log.level, changed.log.format) == (level, form)
    assert changed.store == loaded.settings.store
