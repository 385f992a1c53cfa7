"""Deepgram's `/v1/listen` for recordings, through its own client: true words, and no parameter that is ignored."""

from __future__ import annotations

import numpy as np
import pytest
from deepgram import DeepgramClient
from deepgram.core.api_error import ApiError as DeepgramError
from deepgram.environment import DeepgramClientEnvironment

from redline.serve.deepgram_options import read_listen_options
from redline.testing import FakeRecognizer, silence, tone
from redline.types import Hypothesis, Waveform, Word

from .conftest import RunningServer, ServerFactory
from .recordings import pcm, wav_of


def deepgram(server: RunningServer, key: str = "any") -> DeepgramClient:
    """Deepgram's client, of this server."""
    sockets = server.url.replace("http", "ws")
    place = DeepgramClientEnvironment(base=server.url, production=sockets, agent=sockets, agent_rest=server.url)
    return DeepgramClient(api_key=key, environment=place)


def two_words(clip: Waveform) -> Hypothesis:
    """Hears the length of a clip between two words, where there is any sound."""
    if not np.any(clip.samples):
        return Hypothesis("")
    middle = f"{clip.duration:.1f}s,"
    words = (Word(0.1, 0.4, "Hello", 0.9), Word(0.5, 0.7, middle, 0.8), Word(2.0, 2.4, "World.", None))
    return Hypothesis(f"Hello {middle} World.", words=words, confidence=0.7)


def test_the_client_reads_words_times_confidences_and_utterances(serve: ServerFactory) -> None:
    with serve(FakeRecognizer(two_words)) as server:
        media = deepgram(server).listen.v1.media
        reply = media.transcribe_file(
            request=wav_of(pcm(tone(3))), model="nova-3", punctuate=True, utterances=True, tag="a", detect_language=True
        )
    channel = reply.results.channels[0]
    (best,) = channel.alternatives
    assert best.transcript == "Hello 3.0s, World." and best.confidence == pytest.approx((0.9 + 0.8 + 0.7) / 3)
    assert [(word.word, word.start, word.end) for word in best.words] == [
        ("hello", 0.1, 0.4), ("3.0s", 0.5, 0.7), ("world", 2.0, 2.4),
    ]  # fmt: skip
    assert best.words[1].punctuated_word == "3.0s," and channel.detected_language == "en"
    assert [each.transcript for each in reply.results.utterances] == ["Hello 3.0s,", "World."]
    assert reply.metadata.duration == 3.0 and reply.metadata.channels == 1 and reply.metadata.tags == ["a"]


def test_without_punctuate_the_text_is_bare(serve: ServerFactory) -> None:
    with serve(FakeRecognizer(two_words)) as server:
        reply = deepgram(server).listen.v1.media.transcribe_file(request=wav_of(pcm(tone(1))))
    best = reply.results.channels[0].alternatives[0]
    assert best.transcript == "hello 1.0s world" and not hasattr(best.words[0], "punctuated_word")


def test_channels_are_heard_apart_with_multichannel(serve: ServerFactory) -> None:
    both = wav_of(pcm(tone(2), silence(2)))
    with serve(FakeRecognizer(two_words)) as server:
        reply = deepgram(server).listen.v1.media.transcribe_file(request=both, multichannel=True, utterances=True)
    assert [each.alternatives[0].transcript for each in reply.results.channels] == ["hello 2.0s world", ""]
    assert reply.metadata.channels == 2 and {each.channel for each in reply.results.utterances} == {0}


@pytest.mark.parametrize("encoding", ["linear16", "linear32", "mulaw", "alaw"])
def test_samples_without_a_container_are_what_their_encoding_says(serve: ServerFactory, encoding: str) -> None:
    samples = pcm(tone(2))[:, 0]
    if encoding == "linear16":
        data = samples.tobytes()
    elif encoding == "linear32":
        data = (samples / np.float32(32768)).astype("<f4").tobytes()
    else:
        data = bytes(np.full(8000 * 2, 0x93, np.uint8))
    rate = 8000 if encoding.endswith("law") else 16_000
    with serve(FakeRecognizer(two_words)) as server, server.client() as client:
        reply = client.post(f"/v1/listen?encoding={encoding}&sample_rate={rate}", content=data).json()
    assert "2.0s" in reply["results"]["channels"][0]["alternatives"][0]["transcript"]
    assert [each for each in reply["metadata"]["warnings"] if each["type"] == "truncated"] == []


def test_keywords_reach_the_model_with_their_weights() -> None:
    query = [("keywords", "Ana:2"), ("keywords", "Bo"), ("keyterm", "at 10:30")]
    assert read_listen_options(query, streams=False).keywords == ("Ana :2", "Bo", "at 10:30")


@pytest.mark.parametrize(
    ("query", "param"),
    [
        ("redact=pci", "redact"), ("callback=http://a.example", "callback"), ("summarize=v2", "summarize"),
        ("nonsense=1", "nonsense"), ("interim_results=true", "interim_results"), ("punctuate=yes", "punctuate"),
        ("encoding=g729&sample_rate=8000", "encoding"), ("encoding=mulaw", "sample_rate"), ("utt_split=x", "utt_split"),
        ("multichannel=true&diarize=true", "diarize"), ("sample_rate=1&encoding=linear16", "sample_rate"),
        ("language=klingon", "language"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_its_name(serve: ServerFactory, query: str, param: str) -> None:
    with serve(FakeRecognizer(two_words)) as server, server.client() as client:
        reply = client.post(f"/v1/listen?{query}", content=wav_of(pcm(tone(1))))
    assert reply.status_code == 400 and param in reply.json()["err_msg"] and reply.json()["request_id"]


def test_what_changes_nothing_is_listed_and_what_is_off_is_off(serve: ServerFactory) -> None:
    query = "version=latest&filler_words=true&redact=false&summarize=false"
    with serve(FakeRecognizer(two_words)) as server, server.client() as client:
        reply = client.post(f"/v1/listen?{query}", content=wav_of(pcm(tone(1)))).json()
    assert {each.get("parameter") for each in reply["metadata"]["warnings"]} == {"version", "filler_words"}


def test_the_client_gets_errors_it_can_read(serve: ServerFactory) -> None:
    with serve() as server:
        media = deepgram(server).listen.v1.media
        with pytest.raises(DeepgramError) as refused:
            media.transcribe_file(request=b"no sound at all")
        assert refused.value.status_code == 400 and refused.value.body["err_code"] == "audio_unreadable"
        with pytest.raises(DeepgramError) as refused:
            media.transcribe_url(url="http://127.0.0.1/a.wav")
        assert "URL" in refused.value.body["err_msg"]
