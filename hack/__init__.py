"""Programs for developing cri-proxy; not part of the release."""
