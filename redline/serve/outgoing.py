"""Outgoing requests to addresses that a caller named: never to services of this machine or its networks (SSRF).

A host is resolved once, every address of it is judged, and the connection goes to the one that was judged, so a name
that changes its mind in between (DNS rebinding) gains nothing. Redirects are not followed.
"""

from __future__ import annotations

import ipaddress
import socket
import ssl
import threading
from collections.abc import Collection, Mapping
from contextlib import suppress
from functools import cache
from typing import Any
from urllib.parse import urlsplit

import httpx

from redline.errors import RedlineError

_Address = ipaddress.IPv4Address | ipaddress.IPv6Address
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class RefusedAddressError(RedlineError):
    """An address that callers may not have this server connect to."""


def public_address(url: str, allow_hosts: Collection[str] = ()) -> tuple[str, str]:
    """Check a URL -> its host, and the address to connect to.

    `allow_hosts` are host names or addresses that may be private. Raises `RefusedAddressError`.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError as error:
        raise RefusedAddressError(f"{url[:200]!r} is no URL: {error}") from error
    if parts.scheme not in ("http", "https") or not host:
        raise RefusedAddressError(f"{url[:200]!r} is refused; allowed are http:// and https:// with a host")
    if parts.username is not None or parts.password is not None:
        raise RefusedAddressError(f"the URL of {host} carries a user or a password; leave them out")
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as error:
        raise RefusedAddressError(f"the host {host} cannot be found: {error}") from error
    addresses = list(dict.fromkeys(str(each[4][0]).partition("%")[0] for each in found))
    if host.lower() not in {allowed.lower() for allowed in allow_hosts}:
        for address in addresses:
            if not is_public(address):
                raise RefusedAddressError(
                    f"{host} is {address}, which is not a public address; whoever runs the server can allow the host"
                )
    return host, addresses[0]


def is_public(address: str) -> bool:
    """Whether an IP address is one of the internet, not of this machine or of a network of its owner's."""
    ip: _Address = ipaddress.ip_address(address)
    if isinstance(ip, ipaddress.IPv6Address):
        inner = ip.ipv4_mapped or ip.sixtofour or (ip.teredo[1] if ip.teredo else None)
        if inner is None and ip in _NAT64:
            inner = ipaddress.IPv4Address(int(ip) & 0xFFFFFFFF)
        if inner is not None:
            return is_public(str(inner))
    return ip.is_global and not (ip.is_multicast or ip.is_reserved or ip.is_unspecified)


def guarded_client(url: str, *, allow_hosts: Collection[str] = (), timeout_s: float = 10.0) -> httpx.Client:
    """A client for this URL alone, connected to the address that was judged; raises `RefusedAddressError`.

    `timeout_s` bounds each wait, and all of them together until the head of the answer is there.
    """
    host, address = public_address(url, allow_hosts)
    timeout = httpx.Timeout(timeout_s)
    return httpx.Client(
        transport=_Pinned(host, address, timeout_s), timeout=timeout, follow_redirects=False, trust_env=False
    )


@cache
def _trusted() -> ssl.SSLContext:
    """The certificates that are trusted, which take longer to read than a request takes."""
    return httpx.create_ssl_context(trust_env=False)


class _Pinned(httpx.BaseTransport):
    """Connects to one address, whatever the name of the host means by now; TLS still checks the name."""

    def __init__(self, host: str, address: str, head_s: float) -> None:
        self._host, self._address, self._head_s = host, address, head_s
        self._inner = httpx.HTTPTransport(verify=_trusted())
        self._link: socket.socket | None = None
        self._is_cut = False

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.host != self._host.strip("[]"):
            raise RefusedAddressError(f"a request to {request.url.host} with the client of {self._host}")
        request.headers.setdefault("Host", request.url.netloc.decode("ascii"))
        request.extensions = {**request.extensions, "sni_hostname": self._host, "trace": self._note}
        request.url = request.url.copy_with(host=self._address)
        # A byte now and then is no timeout of the client's, and heads have no end of their own.
        end = threading.Timer(self._head_s, self._cut)
        end.start()
        try:
            return self._inner.handle_request(request)
        except httpx.TransportError as error:
            if self._is_cut:
                raise httpx.ReadTimeout(f"no answer within {self._head_s:g} s", request=request) from error
            raise
        finally:
            end.cancel()

    def _note(self, event: str, info: Mapping[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            self._link = info["return_value"].get_extra_info("socket")

    def _cut(self) -> None:
        self._is_cut = True
        if self._link is not None:
            with suppress(OSError):  # it has ended by itself
                self._link.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._inner.close()
