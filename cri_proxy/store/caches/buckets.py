"""Binary caches in buckets of Amazon S3, and of servers with the same protocol.

FloxHub's catalog names a bucket as Nix does, with credentials as environment variables of AWS. A
file of the cache is one object, requested by a signed GET:

    s3://bucket[/prefix][?region=…&endpoint=…&scheme=…&profile=…]

    region     where the bucket is, by default us-east-1; if the server names another, that is used
    endpoint   host[:port] of another server than Amazon's, or its URL
    scheme     https (the default) or http, for an endpoint without one

Without variables the bucket is read anonymously. Credentials of this node are never used for a
catalog's bucket: a `profile`, which names some, is ignored if variables are given, and refused if
not. Redirects are not followed, since a session token would go with them.
"""

from __future__ import annotations

import contextlib
import datetime
import re
import urllib.parse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from cri_proxy import errors
from cri_proxy.http.client import Client, Follow, Head, Request, Response
from cri_proxy.http.failures import RequestFailed
from cri_proxy.http.statuses import Meaning, meaning_of
from cri_proxy.store import protocol
from cri_proxy.store.caches import cache, sigv4
from cri_proxy.store.caches.cache import Cache
from cri_proxy.store.caches.sigv4 import Credentials, Target
from cri_proxy.store.nar import ByteSource

_REGION: Final = "us-east-1"
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")
_NAME_IN_HOST: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
_REGION_NAME: Final = re.compile(r"[a-z0-9-]{1,40}")
_HOST: Final = re.compile(r"(?:[A-Za-z0-9.-]{1,253}|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?")
_PRINTABLE: Final = re.compile(r"[\x21-\x7e]+")
_CODE: Final = re.compile(rb"<Code>([A-Za-z]{1,64})</Code>")  # of an error, like ExpiredToken
_ELSEWHERE: Final = frozenset({301, 307, 400})


@dataclass(frozen=True, slots=True)
class Address:
    """Where a bucket is, but for its region; `prefix` is the beginning of its objects' paths."""

    bucket: str
    prefix: str
    scheme: str
    endpoint: str | None

    def host_in(self, region: str) -> str:
        """Return the host; Amazon's has the bucket in its name where that can be."""
        if self.endpoint is not None:
            return self.endpoint
        amazon = f"s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"
        return f"{self.bucket}.{amazon}" if self._is_in_host else amazon

    def path_of(self, name: str) -> str:
        """Return the path of an object, as it is sent."""
        bucket = "" if self.endpoint is None and self._is_in_host else f"/{self.bucket}"
        return sigv4.encoded(f"{bucket}{self.prefix}/{name}")

    @property
    def _is_in_host(self) -> bool:
        return _NAME_IN_HOST.fullmatch(self.bucket) is not None


class Bucket(Cache):
    """A cache in a bucket; without `credentials` it is read anonymously."""

    def __init__(
        self,
        url: str,
        address: Address,
        region: str,
        credentials: Credentials | None,
        client: Client,
    ) -> None:
        """Remember where it is; `url` is without its query, as it may be shown."""
        super().__init__(url)
        self._address = address
        self._region = region
        self._credentials = credentials
        self._client = client

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[ByteSource]:
        """Open an object by a signed GET."""
        response = self._get(name)
        other = _region_of(response)
        if other is not None and other != self._region:
            response.close()
            self._region = other
            response = self._get(name)
        with contextlib.closing(response):
            reason = ""
            if meaning_of(response.status) is not Meaning.OK:
                with contextlib.suppress(RequestFailed):
                    found = _CODE.search(response.read(65536))
                    reason = "" if found is None else found[1].decode()
            cache.check_status(response, reason)
            yield cache.body_of(response, name)

    def _get(self, name: str) -> Response:
        host, path = self._address.host_in(self._region), self._address.path_of(name)
        headers: dict[str, str] = {}
        if self._credentials is not None:
            usual = ":443" if self._address.scheme == "https" else ":80"
            target = Target(host.removesuffix(usual), path, self._region)
            now = datetime.datetime.now(datetime.UTC)
            headers = sigv4.headers_of(target, self._credentials, now)
        url = f"{self._address.scheme}://{host}{path}"
        return cache.response_to(Request(url, headers, follow=Follow.NONE), self._client)


def of_url(url: str, variables: Mapping[str, str], client: Client) -> Bucket:
    """Return the cache in the bucket at `url`; raise RequestInvalid, which says nothing secret."""
    parts = urllib.parse.urlsplit(url)
    if parts.scheme != "s3" or not _NAME.fullmatch(parts.netloc):
        raise errors.RequestInvalid("its URL names no bucket")
    options = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
    credentials = _credentials_of(variables)
    if credentials is None and options.get("profile"):
        raise errors.RequestInvalid(
            "its URL names a profile of logins, and this node's are not for a catalog's buckets: "
            "have the catalog give keys"
        )
    region = options.get("region") or _REGION
    if not _REGION_NAME.fullmatch(region):
        raise errors.RequestInvalid("its URL names a region that is none")
    scheme, endpoint = _endpoint_of(options)
    prefix = urllib.parse.unquote(parts.path).rstrip("/")
    address = Address(parts.netloc, prefix, scheme, endpoint)
    return Bucket(protocol.shown(url).rstrip("/"), address, region, credentials, client)


def _endpoint_of(options: Mapping[str, str]) -> tuple[str, str | None]:
    """Return the scheme, and the host of another server than Amazon's if one is named."""
    scheme, host = options.get("scheme") or "https", options.get("endpoint") or ""
    if "://" in host:
        scheme, _, host = host.rstrip("/").partition("://")
    if scheme not in {"https", "http"}:
        raise errors.RequestInvalid("its URL names a scheme that is neither https nor http")
    if host and not _HOST.fullmatch(host):
        raise errors.RequestInvalid("its URL names an endpoint that is no host")
    return scheme, host.lower() or None


def _credentials_of(variables: Mapping[str, str]) -> Credentials | None:
    """Return what the variables are to log in with; None if they are not for that."""
    key_id = variables.get("AWS_ACCESS_KEY_ID") or None
    secret = variables.get("AWS_SECRET_ACCESS_KEY") or None
    token = variables.get("AWS_SESSION_TOKEN") or None
    if key_id is None and secret is None:
        return None
    if key_id is None or secret is None:
        raise errors.RequestInvalid("the catalog gives a key without its secret, or the reverse")
    if not all(_PRINTABLE.fullmatch(each) for each in (key_id, token or "none")):
        raise errors.RequestInvalid("the catalog gives a key that cannot be sent")
    return Credentials(key_id, secret, token)


def _region_of(response: Head) -> str | None:
    if response.status not in _ELSEWHERE:
        return None
    region = response.headers.get("x-amz-bucket-region", "")
    return region if _REGION_NAME.fullmatch(region) else None
