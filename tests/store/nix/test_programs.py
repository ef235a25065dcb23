"""The programs of the node's own Nix: found, run, and their failures explained."""

import os

import pytest

from cri_proxy import errors
from cri_proxy.store.nix import programs
from cri_proxy.store.nix.programs import Programs
from cri_proxy.store.protocol import NixOptions
from hack.testbed.node_nix import VARIABLE

pytestmark = pytest.mark.nix
NIX_DIRECTORY = os.environ.get(VARIABLE, "")


def test_without_nixs_daemon_the_refusal_says_so(options, tmp_path):
    """Only asked, nothing is written: this is where the machine's own Nix would be."""
    nix = NixOptions(NIX_DIRECTORY, "daemon")
    asked = Programs(tmp_path / "nix", options(nix=nix))
    with pytest.raises(errors.SourceUnreachable, match="start nix-daemon"):
        asked.query("--query", "--requisites", paths=["/nix/store/" + "0" * 32 + "-x"])


def test_two_processes_never_share_nixs_cache(tmp_path, options):
    ours = Programs(tmp_path / "nix", options())
    with ours._cache(lambda: None) as one, ours._cache(lambda: None) as other:
        assert one != other


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("error: writing to file: No space left on device", errors.NodeExhausted),
        ("error: cannot open connection: Permission denied", errors.RequestInvalid),
        ("error: something new", errors.SourceUnreachable),
    ],
)
def test_a_failure_is_told_as_what_can_be_done_about_it(line, kind):
    assert type(programs.refusal_of([line], 1)) is kind
