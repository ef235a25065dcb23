"""Locations keep their logins to themselves."""

from __future__ import annotations

from cri_proxy.model.cachelocations import Location


def test_no_login_is_in_a_repr() -> None:
    basic = Location("https://cache", user="unused", password="s3cret")
    bucket = Location("s3://bucket", variables=(("AWS_SECRET_ACCESS_KEY", "s3cret"),))

    assert "s3cret" not in repr((basic, bucket))


def test_locations_with_other_logins_are_others() -> None:
    one, other = (Location("https://cache", user="u", password=each) for each in ("a", "b"))

    assert len({one, other, Location("https://cache", user="u", password="a")}) == 2
