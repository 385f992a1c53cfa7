"""A URL that a caller names reaches the internet, never this machine or the networks around it."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import httpx
import pytest

from redline.serve.outgoing import RefusedAddressError, guarded_client, is_public, public_address

PRIVATE = [
    "127.0.0.1", "127.1", "0.0.0.0", "0", "2130706433", "0x7f000001", "017700000001", "0x7f.1", "localhost",
    "10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.1", "192.168.1.1", "169.254.169.254", "2852039166",
    "100.64.0.1", "192.0.0.1", "192.0.2.1", "198.18.0.1", "198.51.100.1", "203.0.113.1", "224.0.0.1", "240.0.0.1",
    "255.255.255.255", "[::1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:10.0.0.1]", "[::ffff:7f00:1]", "[fe80::1]",
    "[fc00::1]", "[fd12::1]", "[ff02::1]", "[2002:7f00:1::]", "[64:ff9b::7f00:1]", "[2001:db8::1]",
    "[::ffff:a9fe:a9fe]", "[::127.0.0.1]", "[0:0:0:0:0:ffff:127.0.0.1]", "127.000.000.001",
]  # fmt: skip


@pytest.mark.parametrize("host", PRIVATE)
def test_private_addresses_are_refused_however_they_are_written(host: str) -> None:
    with pytest.raises(RefusedAddressError):
        public_address(f"http://{host}/x")


@pytest.mark.parametrize(
    "url", ["file:///etc/passwd", "gopher://a", "http://", "http:///x", "//a", "http://u:p@1.1.1.1/"]
)
def test_only_http_with_a_host_and_without_a_password(url: str) -> None:
    with pytest.raises(RefusedAddressError):
        public_address(url)


def test_public_addresses_are_public() -> None:
    assert is_public("1.1.1.1") and is_public("2606:4700::1111") and is_public("::ffff:1.1.1.1")
    assert public_address("https://1.1.1.1/x") == ("1.1.1.1", "1.1.1.1")


def test_one_private_address_among_public_ones_refuses_the_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def both(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, 1, 6, "", (address, 80)) for address in ("1.1.1.1", "127.0.0.1")]

    monkeypatch.setattr(socket, "getaddrinfo", both)
    with pytest.raises(RefusedAddressError, match=r"127\.0\.0\.1"):
        public_address("http://two-faced.example/")


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        if self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://169.254.169.254/")
        else:
            self.send_response(200)
        self.end_headers()
        self.wfile.write(str(self.headers["Host"]).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    server = HTTPServer(("127.0.0.1", 0), _Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server.server_port
    server.shutdown()
    server.server_close()


def test_a_name_that_changes_its_address_is_still_where_it_was(monkeypatch: pytest.MonkeyPatch, port: int) -> None:
    def here(*_: object, **__: object) -> list[object]:
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    with monkeypatch.context() as patch:
        patch.setattr(socket, "getaddrinfo", here)
        client = guarded_client(f"http://changing.example:{port}/", allow_hosts=["changing.example"])
    with client:  # no resolver is asked again: the name means nothing here
        assert client.get(f"http://changing.example:{port}/").text == f"changing.example:{port}"


def test_redirects_are_not_followed(port: int) -> None:
    with guarded_client(f"http://127.0.0.1:{port}/", allow_hosts=["127.0.0.1"]) as client:
        assert client.get(f"http://127.0.0.1:{port}/away").status_code == 302
        with pytest.raises((RefusedAddressError, httpx.HTTPError)):
            client.get("http://localhost/")
