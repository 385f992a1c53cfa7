"""A webhook is signed, kept until it arrives, tried for three days, and then told as a dead letter."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from redline.serve.pipelines import webhooks
from redline.serve.pipelines.webhooks import RETRY_S, WebhookQueue, is_signed, sign
from redline.serve.store.database import Database

from .conftest import Answer, OtherSide, Received

LOCAL = ["127.0.0.1"]


class Clock:
    def __init__(self) -> None:
        self.time = 1_000_000.0

    def __call__(self) -> float:
        return self.time


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def queue(tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> WebhookQueue:
    monkeypatch.setenv("HOOK", "one,two")
    return WebhookQueue(Database(None, tmp_path), now=clock, timeout_s=2.0)


@pytest.mark.parametrize(
    ("change", "is_good"),
    [
        (lambda body, header: (body, header), True),
        (lambda body, header: (body + b" ", header), False),
        (lambda body, header: (body, header.replace("v1=", "v2=")), False),
        (lambda body, header: (body, header.replace("t=1000000", "t=1000001")), False),
        (lambda body, header: (body, "t=1000000," + header), False),
        (lambda body, header: (body, ""), False),
        (lambda body, header: (body, "t=x,v1=00"), False),
    ],
)
def test_only_the_sender_s_own_words_are_signed(
    change: Callable[[bytes, str], tuple[bytes, str]], is_good: bool
) -> None:
    body = b'{"a": 1}'
    changed, header = change(body, sign(body, ["one"], 1_000_000.7))
    assert is_signed(changed, header, "one", 1_000_000.0) is is_good
    assert not is_signed(changed, header, "another", 1_000_000.0)


def test_an_old_signature_is_refused_and_both_secrets_hold_while_they_change() -> None:
    header = sign(b"x", ["old", "new"], 1_000_000.0)
    assert is_signed(b"x", header, "old", 1_000_299.0) and is_signed(b"x", header, "new", 1_000_299.0)
    assert not is_signed(b"x", header, "new", 1_000_301.0) and not is_signed(b"x", header, "new", 999_699.0)


def test_what_arrives_is_sent_once(queue: WebhookQueue, other_side: OtherSide) -> None:
    event = queue.add(f"{other_side.url}/hook", "{}", "HOOK", LOCAL)
    assert queue.deliver_due() == 1 and queue.deliver_due() == 0 and queue.next_due_at() is None
    (request,) = other_side.received
    assert request.headers["Redline-Event-Id"] == event
    assert is_signed(b"{}", request.headers["Redline-Signature"], "two", queue.now())
    (delivery,) = queue.deliveries("delivered")
    assert delivery.attempts == 1 and not queue.deliveries("waiting")


@pytest.mark.parametrize(
    "answer",
    [
        lambda _: (500, {}, b"broken"),
        lambda _: (503, {"Retry-After": "1"}, b""),
        lambda _: (404, {}, b""),
        lambda _: (302, {"Location": "http://169.254.169.254/latest"}, b""),
        lambda _: (401, {}, b"x" * 10_000_000),
    ],
)
def test_what_fails_is_tried_again_for_three_days_with_one_event_id(
    queue: WebhookQueue, clock: Clock, other_side: OtherSide, answer: Callable[[Received], Answer]
) -> None:
    other_side.answer = answer
    event = queue.add(f"{other_side.url}/hook", "{}", "HOOK", LOCAL)
    for wait in RETRY_S:
        queue.deliver_due()
        assert queue.next_due_at() == pytest.approx(clock.time + wait)
        clock.time += wait - 1
        tried = len(other_side.received)
        queue.deliver_due()
        assert len(other_side.received) == tried, "not before its time"
        clock.time += 1
    queue.deliver_due()
    (dead,) = queue.deliveries("dead")
    assert dead.event_id == event and dead.attempts == len(RETRY_S) + 1 and dead.seen and "HTTP" in dead.seen
    assert {request.headers["Redline-Event-Id"] for request in other_side.received} == {event}
    other_side.answer = lambda _: (204, {}, b"")
    assert queue.revive(event) and not queue.revive("evt_none") and queue.deliver_due() == 1


def test_a_receiver_that_wants_no_more_gets_no_more(queue: WebhookQueue, other_side: OtherSide) -> None:
    other_side.answer = lambda _: (410, {}, b"")
    queue.add(f"{other_side.url}/hook", "{}", "HOOK", LOCAL)
    queue.deliver_due()
    assert [delivery.state for delivery in queue.deliveries()] == ["dead"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:1/x", "http://169.254.169.254/x", "http://[::1]/x", "http://0/x"])
def test_private_addresses_get_nothing_unless_they_are_allowed(queue: WebhookQueue, url: str) -> None:
    queue.add(url, "{}", "HOOK")
    assert queue.deliver_due() == 0
    (dead,) = queue.deliveries("dead")
    assert dead.seen and "not a public address" in dead.seen


def test_a_fault_in_one_delivery_keeps_no_other_from_its_receiver(
    queue: WebhookQueue, other_side: OtherSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail_once(body: bytes, secrets: Sequence[str], now: float) -> str:
        if body == b"bad":
            raise KeyError
        return sign(body, secrets, now)

    monkeypatch.setattr(webhooks, "sign", fail_once)
    queue.add(f"{other_side.url}/hook", "bad", "HOOK", LOCAL)
    queue.add(f"{other_side.url}/hook", "good", "HOOK", LOCAL)
    assert queue.deliver_due() == 1
    assert [(each.state, each.seen) for each in queue.deliveries()] == [
        ("waiting", "an internal error (KeyError)"),
        ("delivered", None),
    ]


def test_a_receiver_that_is_down_keeps_its_event_through_a_restart(
    queue: WebhookQueue, clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    event = queue.add("http://127.0.0.1:9/x", "{}", "HOOK", LOCAL)
    assert queue.deliver_due() == 0
    monkeypatch.delenv("HOOK")
    clock.time += RETRY_S[0]
    again = WebhookQueue(Database(None, tmp_path), now=clock)
    assert again.deliver_due() == 0
    (waiting,) = again.deliveries("waiting")
    assert waiting.event_id == event and waiting.attempts == 2 and waiting.seen and "HOOK is not set" in waiting.seen
