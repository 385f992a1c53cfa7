"""Where a session stands: each window is told once, with what speech goes on behind it."""

from __future__ import annotations

from redline.longform.session import Session, SessionOptions
from redline.longform.windows import WindowOptions
from redline.testing import FakeRecognizer, tone
from redline.types import ClipLimits, Task


def test_windows_are_told_once_and_answers_are_counted_from_the_first() -> None:
    options = SessionOptions(vad=None, window=WindowOptions(eager=True), block_frames=3)
    session, seen = Session(ClipLimits(2.0), Task(), options), []
    for _ in range(5):
        session.feed(tone(1.0).samples)
        progress = session.progress(len(seen))
        seen += progress.windows
        assert progress.open_window == session.open_window is not None and progress.answered == 0
    session.close()
    progress = session.progress(len(seen))
    seen += progress.windows
    assert seen == session.windows and progress.open_window is None and progress.fed_s == 5.0
    assert progress.cut == set(range(len(seen) - 1))
    *others, first = reversed(session.ready())
    for request in others:
        session.put(request.id, FakeRecognizer().answer(request))
    assert session.progress().answered == 0
    session.put(first.id, FakeRecognizer().answer(first))
    assert session.progress().answered == len(seen)
