"""Log settings of interactive commands: plain text, and only what their output does not say."""

from __future__ import annotations

import dataclasses

from cri_proxy import settings


def settings_of(loaded: settings.Loaded, level: str) -> settings.Settings:
    """Return settings that log `level` as text, except where the user configured the log."""
    chosen = {
        origin.key.name
        for origin in loaded.origins
        if origin.key.section == "log" and not origin.is_default
    }
    wanted = {"level": level, "format": "text"}
    changed = {name: value for name, value in wanted.items() if name not in chosen}
    log = dataclasses.replace(loaded.settings.log, **changed)
    return dataclasses.replace(loaded.settings, log=log)
