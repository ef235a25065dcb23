from cri_proxy.lib import certificates


def test_the_bundle_is_a_file_in_a_known_place_or_none():
    bundle = certificates.bundle()

    assert bundle is None or (bundle in certificates.PLACES and bundle.is_file())
