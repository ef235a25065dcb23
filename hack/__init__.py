"""Programs for those who work on cri-proxy; no part of what is installed."""
