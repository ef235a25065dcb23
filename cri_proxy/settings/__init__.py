"""Settings: one table of keys, loaded from four sources and validated strictly.

    schema          the table: sections are frozen dataclasses; each key has a kind, a default, help
    kinds           kinds of values: what is accepted, and two parsers
    keys            all names of a key: `store.root` in the file is CRI_PROXY_STORE_ROOT in the
                    environment and --set store.root=... on the command line
    sources         merges defaults < file < environment < --set, and records each value's origin
    contradictions  finds values that exclude each other
    page            generates docs/settings.md

Nothing here reads the environment or a file at import time: the CLI passes them in, once.
"""

from cri_proxy.settings.schema import Settings
from cri_proxy.settings.sources import (
    CONFIG_FILE,
    CONFIG_VARIABLE,
    Loaded,
    ValueOrigin,
    load,
)

__all__ = ["CONFIG_FILE", "CONFIG_VARIABLE", "Loaded", "ValueOrigin", "Settings", "load"]
