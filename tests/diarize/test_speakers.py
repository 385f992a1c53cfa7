"""Speakers by the sound of their voices: the head, the grouping of words, names from clip to clip, and its training."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy.cluster.hierarchy import fcluster, linkage
from torch import Tensor
from transformers.audio_utils import mel_filter_bank

from redline.decoding.speculative import SpeculativeOptions
from redline.decoding.word_times import share
from redline.diarize import cluster
from redline.diarize import embedder as heads
from redline.diarize.cluster import ClusterOptions, agglomerate, attribute, best_path, named
from redline.diarize.embedder import SpeakerEmbedder
from redline.diarize.link import link
from redline.errors import CheckpointError, UnsupportedTaskError
from redline.features import FEATURE_DIM, FRAME_RATE, N_MELS, batch_features, clip_features
from redline.load import load_model
from redline.recognizer import ArRecognizer
from redline.testing import recognize_clips, tiny_ar_checkpoint
from redline.train.objectives.speaker_embedding import band_weights, slaney_filters
from redline.transcriber import Transcriber
from redline.types import SAMPLE_RATE, ClipLimits, Hypothesis, SpeakerEmbedding, Task, Turn, Waveform, Word


def listening(head: SpeakerEmbedder) -> SpeakerEmbedder:
    """A head with random weights that hears all bands."""
    head.bands.copy_(torch.eye(N_MELS)[:, ::2] + torch.eye(N_MELS)[:, 1::2])
    return head.eval()


@pytest.fixture
def head() -> SpeakerEmbedder:
    torch.manual_seed(0)
    return listening(SpeakerEmbedder(8))


# ---- the head


def test_a_clip_sounds_the_same_alone_and_in_a_batch(head: SpeakerEmbedder) -> None:
    rows = [torch.randn(length, FEATURE_DIM) for length in (31, 290, 1)]
    lengths = torch.tensor([len(row) for row in rows])
    padded = torch.full((3, 290, FEATURE_DIM), torch.nan)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    for row, track in zip(rows, head.track(padded, lengths), strict=True):
        alone = head.track(row[None], torch.tensor([len(row)]))[0]
        spans = [(0, len(row)), (len(row) // 3, len(row) // 2 + 1), (len(row) - 1, len(row))]
        torch.testing.assert_close(track(spans), alone(spans), atol=1e-5, rtol=1e-4)
        assert track.frames == len(row)
        if len(row) < 80:  # no longer than a window
            torch.testing.assert_close(track(spans), head(head.mel(row)[None]).expand(3, -1), atol=1e-5, rtol=1e-4)


def test_a_span_has_the_mean_direction_of_the_windows_in_it(head: SpeakerEmbedder) -> None:
    row = torch.randn(200, FEATURE_DIM)
    (track,) = head.track(row[None], torch.tensor([200]))
    mel = head.mel(row)
    windows = torch.stack([head(mel[20 * at : 20 * at + 160][None])[0] for at in range(13)])  # 1.6 s every 0.2 s
    assert track.middles.tolist() == [40.0 + 10.0 * at for at in range(13)]
    wanted = [windows.mean(dim=0), windows[2:5].mean(dim=0), windows[0], windows[12], windows[6]]
    found = track([(0, 200), (55, 85), (0, 3), (190, 200), (97, 102)])
    torch.testing.assert_close(found, F.normalize(torch.stack(wanted), dim=-1), atol=1e-5, rtol=1e-4)


def test_loudness_changes_nothing(head: SpeakerEmbedder) -> None:
    clip = torch.randn(1, 90, FEATURE_DIM)
    spans = [(0, 90), (3, 20)]
    heard = [head.track(part, torch.tensor([90]))[0](spans) for part in (clip, clip + 0.7)]
    torch.testing.assert_close(heard[0], heard[1], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gain", [0.01, 1.0])
def test_the_network_hears_what_it_was_trained_on(gain: float) -> None:
    head = SpeakerEmbedder(8).eval()
    head.bands.copy_(band_weights())
    time = torch.arange(round(1.6 * SAMPLE_RATE)) / SAMPLE_RATE
    voice = torch.stack([torch.sin(2 * torch.pi * 140.0 * n * time) / n for n in range(1, 30)]).sum(dim=0)
    samples = gain * (voice + 0.2 * torch.randn(len(time), generator=torch.Generator().manual_seed(0)))
    # Its own front end: 25 ms Hann windows, 30 dB below full scale, the power in 40 bands of Slaney's scale.
    level = samples * 10.0 ** (-30.0 / 20.0) / samples.square().mean().sqrt()
    window = torch.hann_window(400)
    spectrum = torch.stft(level, 400, 160, window=window, center=True, pad_mode="constant", return_complex=True)
    filters = mel_filter_bank(201, 40, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    wanted = spectrum.abs().square().T @ torch.from_numpy(filters).float()
    found = head.mel(clip_features(samples))
    middle = slice(10, 150)  # edges are padded in another way
    wrong = (found[middle] - wanted[middle]).abs().mean(dim=0) / wanted[middle].mean(dim=0)
    assert float(wrong.median()) < 0.1 and float((found[middle].sum() / wanted[middle].sum()).log().abs()) < 0.05
    expected = mel_filter_bank(257, 40, 0.0, 8000.0, SAMPLE_RATE, norm="slaney", mel_scale="slaney")
    torch.testing.assert_close(slaney_filters(), torch.from_numpy(expected).float(), atol=1e-7, rtol=1e-5)


def test_a_head_is_written_and_read(head: SpeakerEmbedder, tmp_path: Path) -> None:
    read = heads.load(heads.save(head, tmp_path / heads.SPEAKER_HEAD))
    mel = 0.1 * torch.rand(2, 40, 40)
    torch.testing.assert_close(read(mel), head(mel), atol=0.02, rtol=0.05)
    assert (tmp_path / heads.SPEAKER_HEAD).stat().st_size < 1.1 * sum(weight.numel() for weight in head.parameters())
    again = heads.load(heads.save(read, tmp_path / heads.SPEAKER_HEAD))
    for name, tensor in read.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], tensor)
    (tmp_path / heads.SPEAKER_HEAD).write_bytes(b"no")
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        heads.load(tmp_path / heads.SPEAKER_HEAD)


# ---- grouping


@pytest.mark.parametrize("seed", range(5))
def test_linking_is_average_linkage(seed: int) -> None:
    points = F.normalize(torch.randn(14, 3, generator=torch.Generator().manual_seed(seed)), dim=-1)
    alike = points @ points.T
    apart = (1.0 - alike.double().numpy())[np.triu_indices(14, 1)]
    for same in (-0.2, 0.3, 0.8):
        wanted = fcluster(linkage(apart, "average"), 1.0 - same, "distance")
        found = agglomerate(alike, torch.ones(14), same)
        assert [[a == b for b in found] for a in found] == [[bool(a == b) for b in wanted] for a in wanted]


def test_linking_weighs_what_is_heard_longer() -> None:
    alike = torch.tensor([[1.0, 0.9, 0.6], [0.9, 1.0, 0.0], [0.6, 0.0, 1.0]])
    assert agglomerate(alike, torch.tensor([9.0, 1.0, 1.0]), 0.5) == [0, 0, 0]
    assert agglomerate(alike, torch.tensor([1.0, 9.0, 1.0]), 0.5) == [0, 0, 2]


@pytest.mark.parametrize("seed", range(10))
def test_the_best_path_is_the_best_of_all(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores, costs = torch.randn(6, 3, generator=generator), torch.rand(6, generator=generator)

    def worth(path: Sequence[int]) -> float:
        changes = sum(float(costs[at]) for at in range(1, 6) if path[at] != path[at - 1])
        return sum(float(scores[at, state]) for at, state in enumerate(path)) - changes

    best = max(itertools.product(range(3), repeat=6), key=worth)
    assert worth(best_path(scores, costs)) == pytest.approx(worth(best), abs=1e-5)


def speech(*turns: tuple[int, int], gap_s: float = 0.05) -> tuple[list[Word], list[int]]:
    """Words of 0.3 s of voices, so many each; the voices of the words."""
    words, owners, now = [], list[int](), 0.2
    for voice, count in turns:
        for number in range(count):
            words.append(Word(round(now, 3), round(now + 0.3, 3), f"w{number}"))
            owners.append(voice)
            now += 0.35
        now += gap_s
    return words, owners


def sounding(words: Sequence[Word], owners: Sequence[int], spread: float = 0.3, seed: int = 0) -> cluster.Track:
    """A track on which each frame sounds like the owner of the word that is said, and a little at random."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.eye(6)
    frames = spread * torch.randn(2000, 6, generator=generator)
    for word, owner in zip(words, owners, strict=True):
        frames[int(word.start * FRAME_RATE) : int(word.end * FRAME_RATE)] += centres[owner]

    def track(spans: Sequence[tuple[int, int]]) -> Tensor:
        return torch.stack([F.normalize(frames[start:end].mean(dim=0), dim=0) for start, end in spans])

    return track


@pytest.mark.parametrize(
    "turns",
    [
        [(0, 12)],
        [(0, 8), (1, 7)],
        [(0, 6), (1, 5), (0, 7), (1, 4)],
        [(0, 6), (1, 6), (2, 6), (0, 5)],
    ],
)
@pytest.mark.parametrize("gap_s", [0.0, 0.6])
def test_words_find_their_voices(turns: list[tuple[int, int]], gap_s: float) -> None:
    words, owners = speech(*turns, gap_s=gap_s)
    labels, directions = attribute(words, sounding(words, owners), 2000, ClusterOptions())
    assert len(directions) == len(set(owners)), "a voice was missed or invented"
    wrong = sum(label != owner for label, owner in zip(labels, owners, strict=True))
    # Where nobody pauses, a word beside the change may go either way.
    assert wrong <= (0 if gap_s else len(turns) - 1)
    torch.testing.assert_close(directions.norm(dim=-1), torch.ones(len(directions)))


def test_one_short_word_is_one_voice() -> None:
    words = [Word(0.0, 0.02, "a")]
    labels, directions = attribute(words, sounding(words, [0]), 1, ClusterOptions())
    assert labels == [0] and directions.shape == (1, 6)


def test_options_that_cannot_be_are_refused() -> None:
    with pytest.raises(ValueError, match="hop_s is 3"):
        ClusterOptions(hop_s=3.0)
    with pytest.raises(ValueError, match="most is 0"):
        ClusterOptions(most=0)


# ---- names


def heard(*turns: tuple[str, str], **directions: tuple[float, ...]) -> Hypothesis:
    said = tuple(Turn(speaker, at, at + 1.0, text) for at, (speaker, text) in enumerate(turns))
    words = tuple(Word(turn.start, turn.end, turn.text, speaker=turn.speaker) for turn in said)
    own = tuple(SpeakerEmbedding(name[1:], direction, 2.0) for name, direction in directions.items())
    return Hypothesis(" ".join(turn.text for turn in said), words=words, turns=said, speaker_embeddings=own)


def test_a_voice_keeps_its_name_from_clip_to_clip() -> None:
    known, first = link((), heard(("1", "a"), ("2", "b"), v1=(1.0, 0.0, 0.0), v2=(0.0, 1.0, 0.0)))
    assert [turn.speaker for turn in first.turns] == ["1", "2"]
    known, second = link(known, heard(("1", "c"), ("2", "d"), v1=(0.0, 0.8, 0.6), v2=(0.0, 0.0, 1.0)))
    assert [turn.speaker for turn in second.turns] == ["2", "3"] and [word.speaker for word in second.words] == [
        "2",
        "3",
    ]
    assert [(one.speaker, one.seconds) for one in known] == [("1", 2.0), ("2", 4.0), ("3", 2.0)]
    assert known[1].vector == pytest.approx((0.0, 0.9487, 0.3162), abs=1e-4)


def test_the_first_window_keeps_its_names_and_numbers_go_on_from_them() -> None:
    known, first = link((), heard(("4", "a"), v4=(1.0, 0.0)))
    assert first.turns[0].speaker == "4"
    _, second = link(known, heard(("1", "b"), ("2", "c"), v1=(0.0, 1.0), v2=(1.0, 0.0)))
    assert [turn.speaker for turn in second.turns] == ["1", "4"]


def test_two_voices_that_were_one_before_are_one_turn() -> None:
    known, _ = link((), heard(("1", "a"), v1=(1.0, 0.0)))
    _, found = link(known, heard(("1", "b"), ("2", "c"), v1=(0.9, 0.436), v2=(0.9, -0.436)))
    assert [(turn.speaker, turn.start, turn.end, turn.text) for turn in found.turns] == [("1", 0.0, 2.0, "b c")]


def test_names_that_are_given_stay() -> None:
    assert named([0, 0, 1, 2, 1], ["2", "2", "2"]) == ["2", "2", "2", "1", "2"]
    assert named([0, 1, 0], ["3"]) == ["3", "1", "3"]
    assert named([0, 1, 2], []) == ["1", "2", "3"]


# ---- the recognizer


def noise(seconds: float, seed: int) -> Waveform:
    draw = np.random.default_rng(seed)
    half = round(seconds * SAMPLE_RATE / 2)
    samples = np.concatenate([draw.normal(0, 0.1, half), 0.3 * np.sin(np.arange(half) / 9)])
    return Waveform(samples.astype(np.float32))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tiny_ar_checkpoint(tmp_path_factory.mktemp("models") / "plus", "granite_speech_plus", drafts=True)
    torch.manual_seed(3)
    head = listening(SpeakerEmbedder(8))
    with torch.no_grad():  # what all sound has in common is taken away, so that two kinds point to two sides
        features, _ = batch_features([noise(4.0, 1)], "ar")
        halves = head.mel(features[0])[:400].reshape(2, 200, 40)
        states = F.normalize(F.relu(head.linear(head.lstm(halves)[1][0][-1])), dim=-1)
        head.centre.copy_(states.mean(dim=0))
        head.out.bias.zero_()
    heads.save(head, made / heads.SPEAKER_HEAD)
    return made


def by_voice(folder: Path, words: str = "so it is and it was so") -> ArRecognizer:
    made = load_model(folder, drafts="trust").recognizer
    assert isinstance(made, ArRecognizer)
    made._heard = lambda logits, lengths, task: [words] * len(logits)  # type: ignore[method-assign]
    return made


def even_times(texts: Sequence[str], logits: Tensor, lengths: Tensor, frame_s: float) -> list[list[Word]]:
    """Words over all of their clip; where a random encoder hears them means nothing."""
    return [share(text.split(), 0.0, length * frame_s) for text, length in zip(texts, lengths.tolist(), strict=True)]


def test_speakers_are_told_by_voice_where_the_draft_is_the_text(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("redline.recognizer.ar.word_times", even_times)
    made = by_voice(folder)
    clips = [noise(5.0, 1), noise(6.1, 2), noise(0.7, 3)]
    together = recognize_clips(made, clips, Task(speakers=True))
    for one, clip in zip(together, clips, strict=True):
        (alone,) = recognize_clips(made, [clip], Task(speakers=True))
        assert replace(one, speaker_embeddings=()) == replace(alone, speaker_embeddings=())
        for voice, same in zip(one.speaker_embeddings, alone.speaker_embeddings, strict=True):
            assert replace(voice, vector=()) == replace(same, vector=())
            assert voice.vector == pytest.approx(same.vector, abs=1e-4)
        assert one.text == " ".join(turn.text for turn in one.turns) == "so it is and it was so"
        assert [word.speaker for word in one.words] == [turn.speaker for turn in one.turns for _ in turn.text.split()]
        assert {voice.speaker for voice in one.speaker_embeddings} == {turn.speaker for turn in one.turns}
    assert len(together[0].speaker_embeddings) > 1, "the two halves sound alike: the test proves nothing"
    assert not made.limits(Task(speakers=True)).needs_previous and made.limits(Task(speakers=True)).max_s == 30.0


def test_a_prefix_keeps_its_speakers_and_is_left_out(folder: Path) -> None:
    (found,) = recognize_clips(by_voice(folder), [noise(2.0, 1)], Task(speakers=True, prefix="[Speaker 4]: so it"))
    assert found.text == "is and it was so" == " ".join(turn.text for turn in found.turns)
    assert found.turns[0].speaker == "4"


def test_what_is_asked_is_checked_without_a_prompt_too(folder: Path) -> None:
    with pytest.raises(UnsupportedTaskError, match="allowed are 100"):
        recognize_clips(by_voice(folder), [noise(1.0, 1)], Task(speakers=True, keywords=("a",) * 101))
    with pytest.raises(UnsupportedTaskError, match="does not know the language"):
        recognize_clips(by_voice(folder), [noise(1.0, 1)], Task(speakers=True, language="fr"))


def test_a_telephone_is_warned_of(folder: Path) -> None:
    draw = np.random.default_rng(5)
    wide = draw.normal(0, 0.1, 2 * SAMPLE_RATE)
    spectrum = np.fft.rfft(wide)
    spectrum[round(len(spectrum) * 3400 / 8000) :] = 0.0
    clips = [Waveform(wave.astype(np.float32)) for wave in (wide, np.fft.irfft(spectrum))]
    found = recognize_clips(by_voice(folder), clips, Task(speakers=True))
    assert [[notice.code for notice in one.warnings] for one in found] == [[], ["narrow-band"]]
    assert recognize_clips(by_voice(folder), clips[1:], Task())[0].warnings == ()


def test_the_language_model_tells_speakers_where_it_writes(folder: Path) -> None:
    made = load_model(folder, drafts="none").recognizer
    assert isinstance(made, ArRecognizer) and made.limits(Task(speakers=True)).needs_previous
    assert not made._by_voice(Task(speakers=True))
    made.drafts = SpeculativeOptions("trust")
    assert made._by_voice(Task(speakers=True)) and not made._by_voice(Task(speakers=True, prompt="who?"))


def test_windows_as_they_come_name_speakers_as_the_whole_does(folder: Path) -> None:
    made = by_voice(folder, "so it is")
    made.limits = lambda task: ClipLimits(2.0)  # type: ignore[method-assign]
    wave = Waveform(np.concatenate([noise(2.0, 1).samples, noise(2.0, 2).samples, noise(2.0, 4).samples]))
    model = Transcriber(made)
    whole = model.transcribe(wave, speakers=True, vad=False)
    assert tuple(model.stream(wave, speakers=True, vad=False)) == whole.segments
    assert len(whole.segments) > 3 and len({turn.speaker for turn in whole.turns}) > 1
