"""Logging of commands that a person waits for: text, and no line that repeats what they tell."""

from __future__ import annotations

import dataclasses

from cri_proxy import settings


def settings_of(loaded: settings.Loaded, level: str) -> settings.Settings:
    """Return settings that log `level` as text, unless somebody has set what to log."""
    chosen = {origin.key.name for origin in loaded.origins if _is_chosen(origin)}
    wanted = {"level": level, "format": "text"}
    log = dataclasses.replace(
        loaded.settings.log, **{name: wanted[name] for name in wanted.keys() - chosen}
    )
    return dataclasses.replace(loaded.settings, log=log)


def _is_chosen(origin: settings.ValueOrigin) -> bool:
    return origin.key.section == "log" and not origin.is_default
