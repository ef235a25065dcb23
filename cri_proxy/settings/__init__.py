"""Settings: one table of keys, loaded from four sources and validated strictly.

`schema` is the table: sections are frozen dataclasses, each key has a kind (`kinds`), a default and
a line of help. `keys` derives all names of a key from it: `store.root` in the file is
CRI_PROXY_STORE_ROOT in the environment and --set store.root=... on the command line. `sources`
merges defaults < file < environment < --set and records where each value came from;
`contradictions` finds values that exclude each other; `page` generates docs/settings.md.

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
