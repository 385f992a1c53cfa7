"""Dialogues: two speakers take turns, and the manifest tells exactly who says which word when."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from redline.decoding.word_times import scored_word_times
from redline.errors import ConfigError, DataError
from redline.manifest import Utterance, read_manifest, write_manifest
from redline.models.nar import NarModel
from redline.train.data.rows import training_rows
from redline.types import SAMPLE_RATE, Word
from redline_recipes.tiny import dialogues as script
from redline_recipes.tiny.dialogue import Dialogue, DialogueOptions, DialogueTurn, Placed, pieces, plan, render
from redline_recipes.tiny.microphone import mean_spectrum, through_one_microphone
from redline_recipes.tiny.word_alignment import AlignmentOptions, samples_of, time_words
from tests.builders import tiny_config
from tests.corpus import make_corpus

WORD_S, PAUSE_S, LEAD_S = 0.4, 0.4, 0.3
HERTZ = {"ann": 300.0, "bob": 1000.0, "cy": 2000.0, "zoe": 3000.0}


def timed_words(name: str, pattern: tuple[int, ...]) -> tuple[Word, ...]:
    """So many words, then a pause, then so many words; each word is found in no other utterance."""
    words, now = [], LEAD_S
    for phrase, count in enumerate(pattern):
        for number in range(count):
            words.append(Word(round(now, 3), round(now + WORD_S, 3), f"{name}-{phrase}-{number}"))
            now += WORD_S
        now += PAUSE_S
    return tuple(words)


@pytest.fixture(scope="module")
def utterances(tmp_path_factory: pytest.TempPathFactory) -> list[Utterance]:
    """Four speakers in two splits, each a tone of their own where a word is said and near silence elsewhere."""
    folder = tmp_path_factory.mktemp("speakers")
    rows = []
    for speaker, split in (("ann", "train"), ("bob", "train"), ("cy", "train"), ("zoe", "dev")):
        for number in range(6):
            name = f"{speaker}{number}"
            words = timed_words(name, (4 + number, 6, 3, 9))
            time = np.arange(round((words[-1].end + LEAD_S) * SAMPLE_RATE)) / SAMPLE_RATE
            spoken = sum((time >= word.start) & (time < word.end) for word in words)
            samples = 0.1 * (1 + number) * np.sin(2 * np.pi * HERTZ[speaker] * time) * spoken
            soundfile.write(folder / f"{name}.wav", samples.astype(np.float32), SAMPLE_RATE)
            text = " ".join(word.text for word in words)
            duration = len(time) / SAMPLE_RATE
            rows.append(
                Utterance(name, folder / f"{name}.wav", text, duration, "en", speaker, "tones", split, words=words)
            )
    return rows


@pytest.fixture(scope="module")
def dialogues(utterances: list[Utterance]) -> list[Dialogue]:
    return plan(utterances, 40)


def test_turns_alternate_between_two_speakers_of_one_split(dialogues: list[Dialogue]) -> None:
    for dialogue in dialogues:
        row = dialogue.to_dict("a.flac")
        names = [turn["speaker"] for turn in row["turns"]]
        assert names == ["1", "2", "1", "2", "1", "2"][: len(names)] and 2 <= len(names) <= 6
        assert len(set(row["speakers"])) == 2, "nobody talks to himself"
        assert row["split"] == "train" and "zoe" not in row["speakers"], "she has nobody in her split to talk to"
        for placed in dialogue.placed:
            assert placed.piece.utterance.speaker == row["speakers"][int(placed.speaker) - 1]
    assert {len(dialogue.turns) for dialogue in dialogues} >= {2, 3, 4, 5}
    assert any(len(dialogue.placed) > len(dialogue.turns) for dialogue in dialogues), "a turn may have two pieces"


def test_times_are_inside_the_clip_and_words_inside_their_turn(dialogues: list[Dialogue]) -> None:
    for dialogue in dialogues:
        assert 8 <= dialogue.duration <= 30
        words = list(dialogue.words)
        for turn in dialogue.turns:
            own, words = words[: len(turn.text.split())], words[len(turn.text.split()) :]
            assert [word.text for word in own] == turn.text.split()
            assert (turn.start, turn.end) == (own[0].start, own[-1].end)
            assert 0 < turn.start < turn.end < dialogue.duration
            assert all(left.end <= right.start + 0.0011 for left, right in pairwise(own))
        assert not words


def test_text_of_a_row_is_that_of_its_turns_and_is_read_back(dialogues: list[Dialogue], tmp_path: Path) -> None:
    rows = [dialogue.to_dict(f"{dialogue.id}.flac") for dialogue in dialogues]
    for row, read in zip(rows, read_manifest(write_manifest(tmp_path / "m.jsonl", rows)), strict=True):
        assert row["text"] == " ".join(turn["text"] for turn in row["turns"]) == " ".join(w.text for w in read.words)
        assert "speaker" not in row and row["source"] == "dialogues" and row["language"] == "en"
        assert [turn.to_dict() for turn in read.turns] == row["turns"] and read.duration == row["duration"]


def test_the_seed_decides_everything(utterances: list[Utterance], dialogues: list[Dialogue]) -> None:
    again = plan(utterances, 40)
    assert again == dialogues and np.array_equal(render(again[0]), render(dialogues[0]))
    assert plan(utterances, 3) == dialogues[:3], "more clips do not change the first ones"
    other = plan(utterances, 40, DialogueOptions(seed=1))
    assert not {dialogue.id for dialogue in other} & {dialogue.id for dialogue in dialogues}
    assert len({dialogue.id for dialogue in dialogues}) == len(dialogues)


@pytest.mark.parametrize("overlap", [0.0, 0.33, 1.0])
def test_overlap_is_as_often_as_asked_and_short(utterances: list[Utterance], overlap: float) -> None:
    planned = plan(utterances, 150, DialogueOptions(overlap=overlap))
    gaps = [round(right.start - left.end, 3) for dialogue in planned for left, right in pairwise(dialogue.turns)]
    assert min(gaps) >= -0.4 and max(gaps) <= 0.8
    assert sum(gap < 0 for gap in gaps) / len(gaps) == pytest.approx(overlap, abs=0.08 if 0 < overlap < 1 else 0)
    for dialogue in planned:
        assert all(third.start > first.end for first, third in zip(dialogue.turns, dialogue.turns[2:], strict=False))


def test_pieces_end_at_pauses_and_are_as_long_as_a_turn(utterances: list[Utterance]) -> None:
    turns = pieces(utterances[0], DialogueOptions(turn_s=(1.5, 4.1)))
    assert [(piece.first, piece.last) for piece in turns] == [(0, 4), (4, 10), (4, 13), (13, 22)]
    assert pieces(utterances[0], DialogueOptions(pause_s=PAUSE_S + 0.1)) == []


def test_every_utterance_is_used_before_one_comes_again(utterances: list[Utterance]) -> None:
    used = [placed.piece.utterance.id for dialogue in plan(utterances, 12) for placed in dialogue.placed]
    assert set(used) == {utterance.id for utterance in utterances if utterance.split == "train"}


def power(samples: np.ndarray, hertz: float) -> float:
    """Mean power of a tone in decibels against full scale."""
    time = np.arange(len(samples)) / SAMPLE_RATE
    return float(20 * np.log10(2**0.5 * abs(np.mean(samples * np.exp(-2j * np.pi * hertz * time))) + 1e-9))


def test_each_word_sounds_when_the_manifest_says_at_the_level_of_its_speaker(dialogues: list[Dialogue]) -> None:
    for dialogue in dialogues[:8]:
        samples = render(dialogue)
        assert samples.dtype == np.float32 and len(samples) == round(dialogue.duration * SAMPLE_RATE)
        assert np.abs(samples).max() <= 0.951
        levels: dict[str, list[float]] = {"1": [], "2": []}
        for placed in dialogue.placed:
            hertz = HERTZ[placed.piece.utterance.speaker]
            inner = [
                samples[round((w.start + 0.1) * SAMPLE_RATE) : round((w.end - 0.1) * SAMPLE_RATE)] for w in placed.words
            ]
            levels[placed.speaker] += [power(part, hertz) for part in inner]
            before = samples[round((placed.start - 0.09) * SAMPLE_RATE) : round((placed.start - 0.02) * SAMPLE_RATE)]
            assert power(before, hertz) < -45, "nothing is heard before the first word"
        loud = [max(powers) for powers in levels.values()]
        assert all(max(powers) - min(powers) < 2.5 for powers in levels.values()), (
            "utterances of a speaker are equally loud"
        )
        assert abs(loud[0] - loud[1]) < 6.5 and all(-32 < level < -20 for level in loud)


def test_there_is_never_digital_silence(dialogues: list[Dialogue]) -> None:
    samples = render(dialogues[0])
    frames = samples[: len(samples) // 160 * 160].reshape(-1, 160)
    level = 10 * np.log10(np.mean(np.square(frames), axis=1).min())
    assert -80 < level < -50


def test_a_part_of_a_recording_is_cut_out_of_it(utterances: list[Utterance]) -> None:
    part = replace(utterances[0], start=1.0, end=2.5)
    assert np.array_equal(samples_of(part), samples_of(utterances[0])[16_000:40_000])


def test_a_piece_at_the_rim_of_a_clip_is_cut_there(utterances: list[Utterance]) -> None:
    piece = DialogueTurn(utterances[0], 0, 4)
    dialogue = Dialogue(
        "x", (Placed(piece, "1", 0.05, -26.0), Placed(DialogueTurn(utterances[6], 0, 4), "2", 2.0, -26.0)), 3.7, -70.0
    )
    assert len(render(dialogue)) == round(3.7 * SAMPLE_RATE)


def test_what_cannot_be_a_dialogue_is_told(utterances: list[Utterance]) -> None:
    alone = [utterance for utterance in utterances if utterance.speaker in ("ann", "zoe")]
    with pytest.raises(DataError, match=r"^2 speakers with pieces .* two of the same split and language$"):
        plan(alone, 1)
    with pytest.raises(DataError, match=r"^0 speakers"):
        plan([replace(utterance, words=()) for utterance in utterances], 1)
    german = [
        replace(utterance, language="de") if utterance.speaker == "ann" else utterance for utterance in utterances
    ]
    assert all("ann" not in dialogue.to_dict("")["speakers"] for dialogue in plan(german, 10))
    with pytest.raises(DataError, match="shorter than 29 s"):
        plan(utterances, 1, DialogueOptions(turns=(2, 2), clip_s=(29.0, 30.0)))


@pytest.mark.parametrize(
    "wrong",
    [
        {"overlap": 1.5},
        {"again": -0.1},
        {"turns": (1, 3)},
        {"gap_s": (0.8, 0.0)},
        {"overlap_s": (0.0, 1.0)},
        {"turn_s": (1.5, 20.0)},
    ],
)
def test_options_that_contradict_themselves_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        DialogueOptions(**wrong)  # type: ignore[arg-type]


def model() -> NarModel:
    torch.manual_seed(0)
    return NarModel(tiny_config()).eval()


def test_words_are_timed_alone_as_in_a_batch_and_in_order(tmp_path: Path) -> None:
    rows = training_rows(make_corpus(tmp_path))
    rows[3] = replace(rows[3], text="Red, MAT-and 'house'!")
    steps: list[float] = []
    timed, dropped = time_words(model(), rows, AlignmentOptions(least_score=-math.inf, batch_s=4.0), steps.append)
    assert not dropped and [row.id for row in timed] == [row.id for row in rows]
    assert sum(steps) == pytest.approx(sum(row.duration for row in rows))
    assert [word.text for word in timed[3].words] == ["red", "mat", "and", "house"] and timed[3].text == rows[3].text
    for row in timed:
        assert row.words[0].start >= 0 and row.words[-1].end <= row.duration + 0.02
        assert all(left.end <= right.start for left, right in pairwise(row.words))
    (alone,), _ = time_words(model(), rows[5:6], AlignmentOptions(least_score=-math.inf))
    assert alone == timed[5]


def test_what_does_not_fit_or_cannot_be_read_is_dropped_and_told(tmp_path: Path) -> None:
    rows = training_rows(make_corpus(tmp_path))[:4]
    rows[1] = replace(rows[1], text="...")
    rows[2] = replace(rows[2], audio=tmp_path / "none.wav")
    timed, dropped = time_words(model(), rows, AlignmentOptions(least_score=-0.01))
    assert not timed and set(dropped) == {row.id for row in rows}
    assert dropped["utt1"] == "no words" and "none.wav" in dropped["utt2"]
    assert dropped["utt0"].startswith("does not fit the sound: -") and dropped["utt0"].endswith("allowed is -0.01")


def test_nothing_fits_no_time() -> None:
    torch.manual_seed(0)
    logits, lengths, texts = torch.randn(2, 20, 128), torch.tensor([20, 2]), ["ab cd", "far too long"]
    scored = scored_word_times(texts, logits, lengths, 0.04)
    assert -10 < scored[0][1] < 0 and scored[1][1] == -math.inf


def test_the_script_writes_clips_and_takes_them_up_again(
    utterances: list[Utterance], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = write_manifest(tmp_path / "data" / "m.jsonl", (utterance.to_dict() for utterance in utterances))
    out = tmp_path / "out" / "train"
    call = ["--data", str(data), "--split", "train", "--count", "3", "--out", str(out)]
    assert script.main(call) == 0
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["train"]
    rows = [json.loads(line) for line in (out / "manifest.jsonl").read_text(encoding="utf-8").splitlines()]
    assert {path.name for path in out.iterdir()} == {"manifest.jsonl", *(row["audio"] for row in rows)}
    for row in rows:
        info = soundfile.info(out / row["audio"])
        assert (info.samplerate, info.channels, info.format) == (SAMPLE_RATE, 1, "FLAC")
        assert info.duration == pytest.approx(row["duration"], abs=1e-3)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.flac")}
    gone = out / rows[1]["audio"]
    samples = gone.read_bytes()
    gone.unlink()
    assert script.main(call) == 0
    assert gone.read_bytes() == samples
    assert all(path.stat().st_mtime_ns == time for path, time in before.items() if path != gone)
    assert script.main([*call, "--overlap", "2"]) == 2
    assert script.main(["--data", str(data), "--split", "dev", "--count", "1", "--out", str(tmp_path / "dev")]) == 2


def test_the_script_aligns_an_utterance_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_corpus(tmp_path)
    loads: list[str] = []

    def load(name: str) -> tuple[NarModel, None, None]:
        loads.append(name)
        return model(), None, None

    monkeypatch.setattr(script.nar, "load_nar", load)
    monkeypatch.setattr(script, "AlignmentOptions", lambda: AlignmentOptions(least_score=-6.0))
    call = ["--data", str(data), "--count", "0", "--out", str(tmp_path / "words"), "--model", "mine"]
    assert script.main([*call, "--split", "dev"]) == 0
    assert script.main([*call, "--split", "dev"]) == 0
    assert loads == ["mine"] and len(read_manifest(tmp_path / "words" / "words.jsonl")) == 4
    assert script.main([*call, "--split", "train", "dev"]) == 0
    rows = read_manifest(tmp_path / "words" / "words.jsonl")
    assert loads == ["mine", "mine"] and len(rows) == 24
    assert all(not row.words or [word.text for word in row.words] == row.text.lower().split() for row in rows)
    assert not capsys.readouterr().out, "progress and notes go to stderr"


def test_one_microphone_gives_both_speakers_one_spectrum() -> None:
    draw = np.random.default_rng(0)
    white = [draw.normal(0, 1, 32_000) for _ in range(3)]
    dull = [np.convolve(noise, [0.5, 0.5, 0.3], "same") for noise in white[:2]]
    shaped = through_one_microphone(["a", "a", "b"], [*dull, white[2]])
    assert [len(samples) for samples in shaped] == [32_000] * 3
    levels = [10 * np.log10(mean_spectrum(samples)[4:250]) for samples in (np.concatenate(shaped[:2]), shaped[2])]
    before = [10 * np.log10(mean_spectrum(samples)[4:250]) for samples in (np.concatenate(dull), white[2])]
    assert np.abs(before[0] - before[1]).mean() > 4 and np.abs(levels[0] - levels[1]).mean() < 0.3


def test_a_telephone_lets_its_band_through(dialogues: list[Dialogue]) -> None:
    wide = render(dialogues[0])
    narrow = render(dialogues[0], DialogueOptions(band_hz=(300.0, 3400.0)))
    power = [np.square(np.abs(np.fft.rfft(samples))) for samples in (wide, narrow)]
    hertz = np.fft.rfftfreq(len(wide), 1 / SAMPLE_RATE)
    outside = (hertz < 290) | (hertz > 3410)
    assert power[1][outside].sum() < 1e-6 * power[0].sum() < power[0][outside].sum()
    same = render(dialogues[0], DialogueOptions(one_microphone=True))
    assert same.shape == wide.shape and not np.array_equal(same, wide)
