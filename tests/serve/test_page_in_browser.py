"""The page in a real Chromium, on a real server: what people do with it, by mouse, by keyboard and by voice."""

from __future__ import annotations

import base64
import io
import wave
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import redline
from redline import audio
from redline.serve.auth import new_key
from redline.testing import FakeRecognizer, tone
from redline.types import Hypothesis, Turn, Word

from .conftest import RunningServer, ServerFactory
from .recordings import Held

pytest.importorskip("selenium")
from selenium.webdriver.common.keys import Keys

from .browser import BROWSER, Page, opened_browser

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(BROWSER is None, reason="needs Chromium (apt-get install chromium)"),
]
DRAFT = "hello mister curn how are you we meet on on tuesday"
WORDS = ["Hello", "Mr.", "Kern,", "how", "are", "you?", "We", "meet", "on", "Tuesday."]
HOSTILE = '<img src=x onerror="document.title=1">'


def said(words: list[str], draft: str) -> Hypothesis:
    """Two speakers, a word each 0.3 s from 0.2 s on; the model is not sure of the third."""
    timed = [Word(0.2 + 0.3 * at, 0.45 + 0.3 * at, word, 0.2 if at == 2 else 0.95) for at, word in enumerate(words)]
    turns = (Turn("1", 0.2, 2.0, " ".join(words[:6])), Turn("2", 2.0, 4.0, " ".join(words[6:])))
    return Hypothesis(" ".join(words), draft=draft, words=tuple(timed), turns=turns, confidence=0.9)


def recording(path: Path, seconds: float = 4.0) -> Path:
    return written(path, tone(seconds).samples)


def written(path: Path, samples: np.ndarray, rate: int = 16_000) -> Path:
    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes((samples * 32767).astype("<i2").tobytes())
    return path


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    folder = tmp_path_factory.mktemp("browser")
    demo = audio.load(Path(redline.__file__).parent / "assets" / "demo.flac").samples
    with opened_browser(folder, written(folder / "microphone.wav", demo)) as opened:
        yield opened


@pytest.fixture
def page(browser: Page) -> Page:
    browser.forget_complaints()
    return browser


@pytest.fixture
def server(serve: ServerFactory) -> Iterator[RunningServer]:
    with serve(FakeRecognizer(lambda clip: said(WORDS, DRAFT))) as running:
        yield running


def upload(page: Page, path: Path) -> None:
    page.find("#files").send_keys(str(path))
    page.is_("#title", [path.name])
    page.find("#words .word")


def test_from_a_file_to_a_corrected_named_exported_transcript(
    page: Page, server: RunningServer, tmp_path: Path
) -> None:
    page.emulate()
    page.open(server.url)
    upload(page, recording(tmp_path / "talk.wav"))
    page.is_(".said", [" ".join(WORDS[:6]), " ".join(WORDS[6:])])
    assert page.texts(".word.very-unsure") == ["Kern,"] and "0:04" in page.find("#facts").text

    # A click on a word seeks to it and marks it; playing marks the next ones.
    page.until(lambda: page.js("return document.getElementById('audio').readyState") > 0, "the recording")
    page.all("#words .word")[7].click()
    page.until(lambda: page.js("return document.getElementById('audio').currentTime") == pytest.approx(2.3), "a seek")
    page.is_(".word.current", ["meet"])
    page.press(" ")
    page.is_(".word.current", ["Tuesday."])

    # What the editor changed, as tracked changes; without them the draft is hidden.
    assert page.texts("#words del") == []
    page.click("#show-changes")
    assert page.texts("#words del") == ["mister curn", "on"]
    assert page.texts("#words ins:not(.style)") == ["Mr. Kern,"]
    page.click("#show-text")
    assert page.texts("#words del") == []

    # A name for a speaker, a correction of a word: both stay.
    page.click(".speaker")
    page.press("Ana", Keys.ENTER)
    page.is_(".speaker", ["Ana", "Speaker 2"])
    page.all("#words .word")[2].click()
    page.press("e")
    page.press("Körner,", Keys.ENTER)
    page.is_(".word.corrected", ["Körner,"])
    page.driver.refresh()
    page.is_(".word.corrected", ["Körner,"])
    page.is_(".speaker", ["Ana", "Speaker 2"])

    # Search finds the corrected text, and jumps to the time.
    page.find("#search").send_keys("körner")
    page.is_("#list mark", ["Körner"])
    page.find("#search").clear()
    page.find("#search").send_keys("tuesday")
    page.is_("#list mark", "tuesday", lambda texts: texts and texts[0].lower())
    page.is_("#list-title", ["1 found"])
    page.click("#list .hit a")
    page.until(lambda: page.js("return document.getElementById('audio').currentTime") == pytest.approx(2.0), "a jump")

    # Every format; Word has the changes when they are asked for.
    page.click("#export summary")
    assert len(page.texts("#formats a")) == len(redline.formats.TRANSCRIPT_FORMATS)
    page.click("#formats a[href*='format=srt']")
    assert "Ana: Hello Mr. Körner," in page.downloaded("talk.wav.srt").read_text(encoding="utf-8")
    page.click("#export summary")
    page.click("#export-changes")
    page.click("#formats a[href*='format=docx']")
    with zipfile.ZipFile(io.BytesIO(page.downloaded(".docx").read_bytes())) as document:
        assert b"<w:del " in document.read("word/document.xml")
    page.click("#export summary")
    page.click("#export-corrections")
    assert "manifest.jsonl" in zipfile.ZipFile(page.downloaded(".zip")).namelist()

    # Deletion asks first, and leaves nothing.
    page.click("#delete-button")
    page.press(Keys.ENTER)
    assert page.texts("#title") == ["talk.wav"]
    page.click("#delete-button")
    page.click("#delete-dialog .primary")
    page.is_("#welcome h1", ["Speech, written down."])
    with server.client() as client:
        assert client.get("/v1/transcripts").json() == {"transcripts": []}
    assert page.complaints() == []


def test_jobs_show_how_far_they_are_and_can_be_cancelled(page: Page, serve: ServerFactory, tmp_path: Path) -> None:
    recognizer = Held()
    with serve(recognizer) as server:
        page.open(server.url)
        page.find("#files").send_keys(str(recording(tmp_path / "a.wav")) + "\n" + str(recording(tmp_path / "b.wav")))
        page.is_(".job strong", {"a.wav", "b.wav"}, set)
        page.click(".job:first-child button")
        page.is_(".job strong", 1, len)
        recognizer.go_on.set()
        page.is_("#list strong", 1, len)
        page.is_("#jobs", [])
        assert page.complaints() == []


def test_recordings_are_dropped_anywhere_on_the_page(page: Page, server: RunningServer, tmp_path: Path) -> None:
    page.open(server.url)
    data = base64.b64encode(recording(tmp_path / "a.wav").read_bytes()).decode()
    page.js(
        """const bytes = Uint8Array.from(atob(arguments[0]), (each) => each.charCodeAt(0));
        const dropped = new DataTransfer(), main = document.querySelector("#main");
        for (const name of ["one.wav", "two.wav"]) dropped.items.add(new File([bytes], name, { type: "audio/wav" }));
        const event = { dataTransfer: dropped, bubbles: true, cancelable: true };
        for (const kind of ["dragover", "drop"]) main.dispatchEvent(new DragEvent(kind, event));""",
        data,
    )
    page.is_("#list strong", {"one.wav", "two.wav"}, set)
    assert page.complaints() == []


def test_what_goes_wrong_is_told(page: Page, serve: ServerFactory, tmp_path: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound at all")
    with serve() as server:
        page.open(server.url)
        page.find("#files").send_keys(str(tmp_path / "text.wav"))
        page.until(lambda: "text.wav" in page.find("#note.error").text, "the reason")
        page.is_("#jobs", [])
        page.open(server.url + "/#/t/tr_nothing")
        page.until(lambda: "there is no transcript" in page.find("#note.error").text, "the reason")


def test_text_of_others_is_only_text(page: Page, serve: ServerFactory, tmp_path: Path) -> None:
    words = [HOSTILE.replace(" ", "\u00a0"), "<script>document.title=2</script>", *WORDS[2:]]
    with serve(FakeRecognizer(lambda clip: said(words, f"{HOSTILE} {DRAFT}"))) as server:
        page.open(server.url)
        path = recording(tmp_path / "<img src=x onerror='document.title=3'>.wav")
        upload(page, path)
        page.click("#show-changes")
        page.click(".speaker")
        page.press("<b onclick=alert(1)>Eve</b>", Keys.ENTER)
        page.is_(".speaker", "<b onclick=alert(1)>Eve</b>", lambda texts: texts[0])
        page.find("#search").send_keys("script")
        page.is_("#list mark", "script", lambda texts: texts and texts[0])
        assert page.all("main img, main script, main b, nav img, nav script") == []
        assert page.driver.title == f"{path.name} – Redline"
        assert page.complaints() == []


def test_all_of_it_works_by_keyboard(page: Page, server: RunningServer, tmp_path: Path) -> None:
    page.open(server.url)
    upload(page, recording(tmp_path / "keys.wav"))
    page.tab_to(".skip")
    page.press(Keys.ENTER)
    page.tab_to("#show-changes")
    assert page.js("return getComputedStyle(document.activeElement).outlineStyle") == "solid", "the focus is seen"
    page.press(" ")
    assert "mister curn" in page.texts("#words del")
    page.tab_to("#words .word")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_LEFT)
    assert page.js("return document.activeElement.textContent") == "Mr."
    page.press("e")
    page.press("Mrs.", Keys.ESCAPE)
    assert page.all(".corrected:not(.legend *)") == []
    page.press("e")
    page.press("Mrs.", Keys.ENTER)
    page.is_("#words .corrected", ["Mrs."])
    page.until(lambda: page.js("return document.activeElement.textContent") == "Mrs.", "the focus where it was")
    page.press(Keys.ARROW_RIGHT, Keys.ENTER)
    page.until(lambda: page.js("return !document.getElementById('audio').paused"), "the sound")
    page.press(" ", "?")
    assert page.find("#shortcuts").is_displayed()
    page.press(Keys.ESCAPE, "/", "meet")
    page.is_("#list mark", ["meet"])
    page.press(Keys.ESCAPE)
    page.tab_to("#list a")
    page.press(Keys.ENTER)
    page.until(lambda: page.js("return document.activeElement.textContent") == "We", "the focus at what was found")
    assert page.complaints() == []


def test_a_phone_needs_no_scrolling_sideways(page: Page, server: RunningServer, tmp_path: Path) -> None:
    page.emulate(320, 640)
    try:
        page.open(server.url)
        wide = "return document.documentElement.scrollWidth"
        assert page.js(wide) <= 320
        upload(page, recording(tmp_path / f"{'long' * 30}.wav"))
        page.click("#show-changes")
        assert page.js(wide) <= 320
        page.click("#export summary")
        box = page.js("const b = document.querySelector('.sheet').getBoundingClientRect(); return [b.left, b.right]")
        assert box[0] >= 0 and box[1] <= 320
        assert page.texts(".library") == [], "one thing at a time"
        page.click("#export summary")
        page.click(".back")
        page.is_("#list strong", 1, len)
        page.click("#record-link")
        page.is_("#live-title", ["Record"])
        assert page.js(wide) <= 320
    finally:
        page.emulate()


def test_it_is_readable_in_light_and_in_dark(page: Page, server: RunningServer, tmp_path: Path) -> None:
    page.open(server.url)
    upload(page, recording(tmp_path / "scheme.wav"))
    page.click("#show-changes")
    try:
        papers = []
        for scheme in ("light", "dark"):
            page.emulate(scheme=scheme)
            papers.append(sum(rgb(page, "html", "backgroundColor")))
            for selector in ("#title", "#facts", ".said", "#words del", "#words ins:not(.style) .word", ".speaker"):
                assert contrast(page, selector) >= 4.5, (scheme, selector)
        assert papers[0] > 600 and papers[1] < 150
    finally:
        page.emulate()


def rgb(page: Page, selector: str, property: str) -> list[float]:
    """The colour that is seen: of a background, that of the nearest element that has one."""
    return page.js(
        """let [element, property] = [document.querySelector(arguments[0]), arguments[1]];
        const read = () => getComputedStyle(element)[property].match(/[\\d.]+/g).map(Number);
        while (property === "backgroundColor" && element.parentElement && read()[3] === 0)
          element = element.parentElement;
        return read().slice(0, 3);""",
        selector,
        property,
    )


def contrast(page: Page, selector: str) -> float:
    """The contrast ratio of WCAG 2."""

    def luminance(color: list[float]) -> float:
        linear = [v / 12.92 if v <= 0.04045 else ((v + 0.055) / 1.055) ** 2.4 for v in (each / 255 for each in color)]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    low, high = sorted(luminance(rgb(page, selector, which)) for which in ("color", "backgroundColor"))
    return (high + 0.05) / (low + 0.05)


def test_the_description_of_the_api_asks_nothing_of_other_hosts(page: Page, server: RunningServer) -> None:
    page.emulate(320, 640)
    try:
        page.open(f"{server.url}/docs")
        asked = page.js("return performance.getEntriesByType('resource').map((each) => each.name)")
        assert asked and all(each.startswith(server.url) for each in asked)
        described = server.app.openapi()["paths"]
        assert len(page.texts(".operation summary")) == sum(len(verbs) for verbs in described.values())
        page.js("for (const each of document.querySelectorAll('details')) each.open = true")
        assert "keywords[]" in page.texts(".operation code")
        assert page.js("return document.documentElement.scrollWidth") <= 320
        assert page.complaints() == []
    finally:
        page.emulate()


def test_a_key_is_asked_for_once(page: Page, serve: ServerFactory, tmp_path: Path) -> None:
    keys = tmp_path / "keys.toml"
    key = new_key(keys, "ana")
    with serve(FakeRecognizer(lambda clip: said(WORDS, DRAFT)), keys_file=keys) as server:
        page.driver.get("about:blank")
        page.driver.get(server.url)
        page.until(lambda: page.find("#key-input").is_displayed(), "the question")
        page.press(key, Keys.ENTER)
        page.find("html[data-ready]")
        upload(page, recording(tmp_path / "secret.wav"))
        page.until(lambda: page.js("return document.getElementById('audio').readyState") > 0, "the recording")
        page.click("#export summary")
        page.click("#formats a[href*='format=vtt']")
        assert page.downloaded("secret.wav.vtt").read_text(encoding="utf-8").startswith("WEBVTT")
        assert key not in page.js("return document.documentElement.outerHTML + JSON.stringify(localStorage)")


def test_speech_is_written_while_it_is_spoken(page: Page, serve: ServerFactory) -> None:
    with serve(redline.load_model("tiny").recognizer) as server:
        page.open(f"{server.url}/#/record")
        page.press("r")
        page.until(lambda: "country" in page.find("#committed").text.lower(), "live text")
        assert page.find("#committed").get_attribute("aria-live") == "polite"
        page.press("r")
        page.find("#words .word")
        assert "country" in page.find("#words").text.lower() and page.find("#title").text.startswith("Recording ")
        assert page.complaints() == []
