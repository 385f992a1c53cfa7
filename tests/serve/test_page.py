"""The page's files: whole, strict, and nothing from elsewhere. What it does is in `test_page_in_browser.py`."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import redline.serve
from redline.formats import TRANSCRIPT_FORMATS
from redline.serve.page import PAGE_HEADERS

from .conftest import ServerFactory

PAGE = Path(redline.serve.__file__).with_name("page")
FILES = sorted(path.name for path in PAGE.iterdir())
MARKUP = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|new Function"
SCRIPTS = [name for name in FILES if name.endswith(".js")]


def test_every_file_is_served_with_a_strict_policy(serve: ServerFactory) -> None:
    with serve() as server, server.client() as client:
        for path in ("/", "/docs", *(f"/page/{name}" for name in FILES)):
            reply = client.get(path)
            assert reply.status_code == 200, path
            assert {name: reply.headers.get(name) for name in PAGE_HEADERS} == PAGE_HEADERS, path
        assert "'unsafe" not in PAGE_HEADERS["Content-Security-Policy"]
        assert client.get("/page/app.js").headers["content-type"].startswith("text/javascript")


def test_an_unchanged_file_is_not_sent_again(serve: ServerFactory) -> None:
    with serve() as server, server.client() as client:
        etag = client.get("/").headers["etag"]
        assert client.get("/", headers={"If-None-Match": etag}).status_code == 304


@pytest.mark.parametrize("name", ["..%2Fapp.py", "%2E%2E/app.py", "nothing.js", "%2Fetc%2Fpasswd", "%00"])
def test_no_other_file_is_served(serve: ServerFactory, name: str) -> None:
    with serve() as server, server.client() as client:
        assert client.get(f"/page/{name}").status_code in (400, 404)


def test_settings_are_the_servers(serve: ServerFactory) -> None:
    with serve() as server, server.client() as client:
        settings = client.get("/page/settings.json").json()
        assert settings["formats"] == list(TRANSCRIPT_FORMATS) and settings["languages"] == ["en"]


def test_the_page_asks_nothing_of_other_hosts() -> None:
    for name in FILES:
        text = (PAGE / name).read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?://|//[a-z]+\.|@import|url\(", text), name


def test_text_becomes_an_element_as_text_only() -> None:
    for name in SCRIPTS:
        text = (PAGE / name).read_text(encoding="utf-8")
        assert not re.search(MARKUP, text), name


def test_scripts_stay_short_and_every_element_that_they_name_is_there() -> None:
    for name in SCRIPTS:
        page = (PAGE / ("docs.html" if name == "docs.js" else "index.html")).read_text(encoding="utf-8")
        ids = re.findall(r'\bid="([^"]+)"', page)
        assert len(ids) == len(set(ids))
        text = (PAGE / name).read_text(encoding="utf-8")
        assert text.count("\n") <= 400
        assert set(re.findall(r'byId\("([^"]+)"\)', text)) <= set(ids), name


def test_nothing_inline_waits_for_a_policy_that_forbids_it() -> None:
    page = "".join((PAGE / name).read_text(encoding="utf-8") for name in FILES if name.endswith(".html"))
    assert not re.search(r'\s(style|on[a-z]+)="', page) and not re.search(r"<(style|script)>", page)
