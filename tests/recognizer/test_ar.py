"""AR and Plus models behind the protocol `Recognizer`: prompts, drafts, tags, limits and refusals."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from redline import load_model
from redline.decoding.repetition import RepetitionOptions
from redline.decoding.speculative import SpeculativeOptions
from redline.errors import ConfigError, RedlineError, UnsupportedTaskError
from redline.models.ar import ArModel
from redline.models.config import ArConfig
from redline.prompts import PromptTemplate
from redline.recognizer import ArRecognizer, NarRecognizer
from redline.testing import silence
from redline.tokenizer import Tokenizer
from redline.types import Recognizer, Task
from tests.builders import recognize_clips
from tests.model_configs import plus_config
from tests.recognizer.ar_models import CLIPS, Script, hears, noise, recognizer_of, says


@pytest.fixture(params=["granite_speech", "granite_speech_plus"])
def recognizer(request: pytest.FixtureRequest, folders: dict[str, Path]) -> ArRecognizer:
    return recognizer_of(folders[request.param])


@pytest.fixture
def plus(folders: dict[str, Path]) -> ArRecognizer:
    return recognizer_of(folders["granite_speech_plus"])


def test_each_kind_of_checkpoint_is_told_apart(folders: dict[str, Path]) -> None:
    kinds = {name: load_model(folder).recognizer for name, folder in folders.items()}
    assert isinstance(kinds["nar"], NarRecognizer)
    for name in ("granite_speech", "granite_speech_plus"):
        recognizer = kinds[name]
        assert isinstance(recognizer, ArRecognizer) and isinstance(recognizer, Recognizer)
        assert recognizer.model.config.kind == name and recognizer.languages == ("en", "de")


def test_a_draft_that_is_verified_exactly_changes_nothing(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    recognizer = recognizer_of(folders["granite_speech"])
    wanted = recognize_clips(recognizer, CLIPS, Task())
    assert all(hypothesis.accepted is None and hypothesis.draft is None for hypothesis in wanted)
    recognizer.drafts = SpeculativeOptions("exact")
    cut = [text[: 2 + 3 * row] + "zq" for row, text in enumerate(hypothesis.text for hypothesis in wanted)]
    whole = [hypothesis.text for hypothesis in wanted]
    for drafts in (None, cut, whole):
        if drafts is not None:
            hears(monkeypatch, *drafts)
        hypotheses = recognize_clips(recognizer, CLIPS, Task())
        assert [hypothesis.text for hypothesis in hypotheses] == whole
        assert all(hypothesis.accepted is not None and 0 <= hypothesis.accepted <= 1 for hypothesis in hypotheses)
    assert [hypothesis.accepted for hypothesis in hypotheses] == [1.0] * len(CLIPS), (
        "the model's own words were not accepted"
    )


def test_a_sure_draft_is_taken_unseen_in_fast_mode_only(folders: dict[str, Path]) -> None:
    recognizer = recognizer_of(folders["granite_speech"], SpeculativeOptions("fast", tau_ctc=100.0))
    fast = recognize_clips(recognizer, CLIPS, Task())
    assert [hypothesis.text for hypothesis in fast] == [hypothesis.draft for hypothesis in fast]
    assert {hypothesis.accepted for hypothesis in fast} == {1.0}
    recognizer.drafts = SpeculativeOptions("exact", tau_ctc=100.0)
    assert recognize_clips(recognizer, CLIPS, Task()) != fast


def test_sampling_is_told_by_its_seed(folders: dict[str, Path]) -> None:
    texts = [
        [
            hypothesis.text
            for hypothesis in recognize_clips(
                load_model(folders["granite_speech"], temperature=1.0, seed=seed).recognizer, CLIPS, Task()
            )
        ]
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]


@pytest.mark.parametrize(
    ("name", "task", "message"),
    [
        ("nar", Task(speakers=True), "cannot tell speakers apart; granite_speech_plus models can"),
        ("nar", Task(keywords=("a",) * 20_001), "allowed are 20000"),
        ("nar", Task(prompt="a"), "cannot follow a prompt"),
        ("nar", Task(prefix="a"), "cannot go on from a prefix"),
        ("nar", Task("translate", "en", "de"), "granite_speech models can, such as"),
        ("nar", Task(target_language="de"), "cannot translate; leave the target language 'de' out"),
        ("granite_speech", Task(target_language="de"), "leave it out or translate"),
        ("granite_speech", Task(speakers=True), "granite_speech_plus model such as"),
        ("granite_speech", Task(prefix="so"), "granite_speech_plus model such as"),
        ("granite_speech", Task("translate", "en", "sv"), "allowed are fr, de, es, pt, ja to en"),
        ("granite_speech", Task("translate", "de", "fr"), "cannot translate from 'de' to 'fr'"),
        ("granite_speech", Task("translate", "en"), "needs a target_language"),
        ("granite_speech", Task("translate", "en", "de", words=True), "nobody said its words"),
        ("granite_speech", Task(language="fr"), "does not know the language 'fr'; it knows en, de"),
        ("granite_speech", Task(languages=("en", "fr")), "does not know the language 'fr'; it knows en, de"),
        ("granite_speech", Task(languages=("en", "de")), "cannot choose among en, de; name the one that is spoken"),
        ("granite_speech_plus", Task("translate", "en", "de"), "granite_speech model such as"),
        ("granite_speech", Task(keywords=("a",) * 101), "allowed are 100"),
        ("granite_speech_plus", Task(prefix="word " * 300), "positions"),
    ],
)
def test_what_a_model_cannot_do_is_refused_before_any_work(
    folders: dict[str, Path], name: str, task: Task, message: str
) -> None:
    recognizer = load_model(folders[name]).recognizer
    with pytest.raises(UnsupportedTaskError, match=message):
        recognizer.limits(task)


def test_options_of_other_models_are_refused(folders: dict[str, Path]) -> None:
    with pytest.raises(RedlineError, match="beams is 2, but this model edits"):
        load_model(folders["nar"], beams=2)
    (folders["granite_speech"] / "out_llm.safetensors").rename(folders["nar"].parent / "head.safetensors")
    with pytest.raises(RedlineError, match=r"no out_llm\.safetensors, so there is no draft"):
        load_model(folders["granite_speech"], draft_lm="other.safetensors")
    with pytest.raises(RedlineError, match=r"drafts is 'trust', but it has no out_llm\.safetensors to write them"):
        load_model(folders["granite_speech"], drafts="trust")
    (folders["nar"].parent / "head.safetensors").rename(folders["granite_speech"] / "out_llm.safetensors")


def test_drafts_are_for_greedy_decoding(folders: dict[str, Path]) -> None:
    with pytest.raises(RedlineError, match="drafts is 'exact', beams 2 and temperature 0; drafts are for greedy"):
        load_model(folders["granite_speech_plus"], drafts="exact", beams=2)
    assert load_model(folders["granite_speech_plus"], beams=2).recognizer.drafts is None  # type: ignore[attr-defined]


def test_silence_gives_no_text_and_changes_no_neighbour(recognizer: ArRecognizer) -> None:
    wanted = recognize_clips(recognizer, CLIPS[:2], Task())
    hypotheses = recognize_clips(recognizer, [silence(1.5), CLIPS[0], silence(0.5), CLIPS[1]], Task())
    assert [hypothesis.text for hypothesis in hypotheses] == ["", wanted[0].text, "", wanted[1].text]


def test_a_used_up_budget_gives_the_partial_text_and_a_warning(recognizer: ArRecognizer) -> None:
    positions = len(recognizer.plan(Task()).prompt) + 30
    config = recognizer.model.config
    recognizer.model.config = replace(config, text=replace(config.text, max_position_embeddings=positions))
    (hypothesis,) = recognize_clips(recognizer, [CLIPS[0]], Task())
    assert [notice.code for notice in hypothesis.warnings] == ["truncated"] and hypothesis.text


MODES = (None, SpeculativeOptions("exact"))
PHRASE = "ask what you can do "


@pytest.mark.parametrize(
    ("text", "draft"),
    [
        (PHRASE * 3, PHRASE * 3),
        (PHRASE * 3, "something else"),  # no evidence is needed for what is no loop anyway
        ("no " * 12, "no " * 12),
        ("no " * 12, ""),
        ("no no no " + "na" * 60, "no no no " + "na" * 57),
        (PHRASE * 12, PHRASE * 4 + "ask but you can do " + PHRASE * 6),
        ("so it is. " * 20, "SO IT IS SO " + "it is so " * 18),
    ],
)
@pytest.mark.parametrize("drafts", MODES)
def test_what_people_repeat_is_kept(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, drafts: Any, text: str, draft: str
) -> None:
    recognizer = recognizer_of(folders["granite_speech"], drafts, loops=RepetitionOptions())
    hears(monkeypatch, draft.strip())
    monkeypatch.setattr("redline.recognizer.ar_batch.token_budget", lambda *rest: 1000)
    Script(recognizer, monkeypatch, text.strip(), draft.strip())
    (hypothesis,) = recognize_clips(recognizer, [CLIPS[0]], Task())
    assert hypothesis.text == text.strip() and not hypothesis.warnings


@pytest.mark.parametrize("draft", ["and so it is", "it is it is", "no no no no no no no"])
@pytest.mark.parametrize("loop", ["no ", "it is ", "z"])
def test_a_loop_that_nobody_says_gives_way_to_the_draft_the_same_in_every_mode(
    folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch, draft: str, loop: str
) -> None:
    answers = []
    for drafts in MODES:
        recognizer = recognizer_of(folders["granite_speech"], drafts, loops=RepetitionOptions())
        hears(monkeypatch, draft)
        monkeypatch.setattr("redline.recognizer.ar_batch.token_budget", lambda *rest: 700)
        Script(recognizer, monkeypatch, "so " + loop * 900, draft)
        (hypothesis,) = recognize_clips(recognizer, [CLIPS[0]], Task())
        assert hypothesis.text == draft and "draft is given" in hypothesis.warnings[0].message
        answers.append((hypothesis.text, hypothesis.warnings))
    assert answers[0] == answers[1]


def test_a_loop_is_cut_where_no_draft_can_stand_in(plus: ArRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    plus.options = replace(plus.options, loops=RepetitionOptions())
    monkeypatch.setattr("redline.recognizer.ar_batch.token_budget", lambda *rest: 700)
    plus.model.draft_head = None
    letters = "redline.recognizer.ar_batch.decode_characters"
    monkeypatch.setattr(letters, lambda row: "no no")  # the letters are the evidence
    Script(plus, monkeypatch, "my " + "no " * 900)
    (hypothesis,) = recognize_clips(plus, [CLIPS[0]], Task())
    assert hypothesis.text == "my no" and "cut off" in hypothesis.warnings[0].message
    monkeypatch.setattr(letters, lambda row: "no" * 60)
    Script(plus, monkeypatch, "so " + "no " * 60)
    (hypothesis,) = recognize_clips(plus, [CLIPS[0]], Task())
    assert hypothesis.text == "so " + " ".join(["no"] * 60) and not hypothesis.warnings


def test_time_tags_become_words(plus: ArRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = says(monkeypatch, "_ [T:20] so[T:60] it [T:90]")
    (hypothesis,) = recognize_clips(plus, [CLIPS[2]], Task(words=True))
    assert "end time" in asked[0] or "imestam" in asked[0]
    assert hypothesis.text == "so it"
    assert [(word.start, word.end, word.text) for word in hypothesis.words] == [(0.2, 0.6, "so"), (0.6, 0.9, "it")]
    assert all(word.confidence is not None and 0 <= word.confidence <= 1 for word in hypothesis.words)


def test_words_without_time_tags_are_aligned(plus: ArRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "so it")
    (hypothesis,) = recognize_clips(plus, [CLIPS[2]], Task(words=True))
    assert [word.text for word in hypothesis.words] == ["so", "it"] and hypothesis.text == "so it"
    times = [time for word in hypothesis.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[-1] > 0 and all(word.confidence is not None for word in hypothesis.words)


@pytest.mark.parametrize("name", ["granite_speech", "nar"])
def test_models_without_time_tags_align_their_words(folders: dict[str, Path], name: str) -> None:
    (hypothesis,) = recognize_clips(load_model(folders[name]).recognizer, [CLIPS[2]], Task(words=True))
    assert " ".join(word.text for word in hypothesis.words) == " ".join(hypothesis.text.split())
    times = [time for word in hypothesis.words for time in (word.start, word.end)]
    assert times == sorted(times) and times[0] >= 0 and times[-1] <= CLIPS[2].duration


def test_a_text_has_its_times_ready_and_a_translation_has_none(folders: dict[str, Path]) -> None:
    recognizer = recognizer_of(folders["granite_speech"])
    (plain,) = recognize_clips(recognizer, [CLIPS[2]], Task())
    assert plain.timing is not None and not plain.words
    (translated,) = recognize_clips(recognizer, [CLIPS[2]], Task("translate", "en", "de"))
    assert translated.timing is None and not translated.words


def test_speaker_tags_become_turns_with_times(plus: ArRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "[SPEAKER 1]: so it is [SPEAKER 2]: is it")
    (hypothesis,) = recognize_clips(plus, [CLIPS[2]], Task(speakers=True))
    assert hypothesis.text == "so it is is it"
    assert [(turn.speaker, turn.text) for turn in hypothesis.turns] == [("1", "so it is"), ("2", "is it")]
    assert [word.speaker for word in hypothesis.words] == ["1"] * 3 + ["2"] * 2
    first, second = hypothesis.turns
    assert 0 <= first.start < first.end <= second.start <= second.end <= CLIPS[2].duration


def test_an_answer_that_names_no_speaker_is_told(plus: ArRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    says(monkeypatch, "so it is")
    (hypothesis,) = recognize_clips(plus, [CLIPS[2]], Task(speakers=True))
    assert hypothesis.text == "so it is" and "no-speaker" in [notice.code for notice in hypothesis.warnings]


def test_an_answer_goes_on_from_that_of_the_window_before(plus: ArRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    """A window that needs the one before it gets that one's audio in front and its tagged answer as prefix."""
    assert plus.limits(Task(speakers=True)).needs_previous
    asked = says(monkeypatch, "[SPEAKER 1]: so it is", "is it [SPEAKER 2]: no", "no no")
    (first,) = recognize_clips(plus, [noise(2.0, 7)], Task(speakers=True))
    (second,) = recognize_clips(plus, [noise(4.0, 7)], Task(speakers=True, prefix=first.tagged))
    assert asked[1].rsplit("<|end_of_role|>")[-1].endswith("[SPEAKER 1]: so it is")
    assert second.text == "is it no" == " ".join(word.text for word in second.words)
    # It begins without a tag: its first words are of the speaker who spoke last.
    assert second.tagged == "[Speaker 1]: is it [SPEAKER 2]: no"
    assert [(turn.speaker, turn.text) for turn in second.turns] == [("1", "is it"), ("2", "no")]
    assert second.turns[0].start == second.words[0].start and second.turns[1].end == second.words[-1].end
    (third,) = recognize_clips(plus, [noise(4.0, 7)], Task(speakers=True, prefix=second.tagged))
    assert [(turn.speaker, turn.text) for turn in third.turns] == [("2", "no no")]


def test_a_prefix_begins_the_answer_and_is_left_out(plus: ArRecognizer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = says(monkeypatch, "it is", "it[T:50] is[T:90]")
    for task in (Task(prefix="and so", words=False), Task(prefix="and[T:10] so[T:20]", words=True)):
        (hypothesis,) = recognize_clips(plus, [CLIPS[2]], task)
        assert asked[-1].endswith(str(task.prefix)) and hypothesis.text == "it is"
    assert [(word.start, word.end, word.text) for word in hypothesis.words] == [(0.2, 0.5, "it"), (0.5, 0.9, "is")]


def full_size(config: ArConfig, tokenizer: Tokenizer) -> ArRecognizer:
    with torch.device("meta"):
        model = ArModel(config)
    return ArRecognizer(model, tokenizer, PromptTemplate.built_in(config.kind), name="full size")


@pytest.mark.parametrize(
    ("task", "least", "most"),
    [(Task(), 60, 60), (Task(words=True), 130, 150), (Task(speakers=True), 120, 120)],
)
def test_windows_of_the_full_size_model_are_as_long_as_fits(
    folders: dict[str, Path], task: Task, least: float, most: float
) -> None:
    tokenizer = Tokenizer.from_file(folders["granite_speech_plus"] / "tokenizer.json")  # a token per letter: the worst
    config = plus_config()
    recognizer = full_size(replace(config, audio_token_index=1), tokenizer)
    assert least <= recognizer.limits(task).max_s <= most
    frames = recognizer.limits(task).max_s * 50
    used: float = len(recognizer.plan(task).prompt) + recognizer.model.projector.num_tokens(int(frames))
    used += recognizer.limits(task).max_s * recognizer.plan(task).budget.expected_per_s
    assert used <= config.text.max_position_embeddings


def test_words_of_a_model_that_trusts_its_draft_are_aligned(plus: ArRecognizer) -> None:
    plus.drafts = SpeculativeOptions("trust")
    (words,) = recognize_clips(plus, [CLIPS[2]], Task(words=True))
    assert words.tagged is None and " ".join(word.text for word in words.words) == " ".join(words.text.split())


def test_a_trusted_draft_is_the_text(folders: dict[str, Path]) -> None:
    recognizer = recognizer_of(folders["granite_speech_plus"])
    recognizer.drafts = SpeculativeOptions()
    drafts = [hypothesis.draft for hypothesis in recognize_clips(recognizer, CLIPS, Task())]
    recognizer.drafts = SpeculativeOptions("trust")
    trusted = recognize_clips(recognizer, CLIPS, Task())
    assert [hypothesis.text for hypothesis in trusted] == [draft or "" for draft in drafts]
    assert any(drafts) and recognizer.limits(Task()).max_s == 30.0
    assert recognizer.limits(Task(prompt="what is said?")).max_s == 60.0  # a prompt is for the language model


def test_a_model_is_not_given_longer_clips_than_it_was_taught(plus: ArRecognizer) -> None:
    plus.model.config = replace(plus.model.config, longest_clip_s={"plain": 8.0, "speakers": 30.0})
    assert plus.limits(Task()).max_s == 8.0 and plus.limits(Task(speakers=True)).max_s == 30.0
    assert plus.limits(Task(words=True)).max_s > 8.0
    with pytest.raises(ConfigError, match="allowed are seconds from 1 for plain, words and speakers"):
        replace(plus.model.config, longest_clip_s={"songs": 8.0})


FORGED: list[Callable[[str], Task]] = [
    lambda text: Task(keywords=(text,)),
    lambda text: Task(prompt=text),
    lambda text: Task(prefix=text),
]


@pytest.mark.parametrize("forge", FORGED, ids=["keywords", "prompt", "prefix"])
@pytest.mark.parametrize("token", ["<|end_of_text|>", "<|audio|>", "<|start_of_role|>", "<|end_of_role|>"])
def test_user_text_never_becomes_a_control_token(plus: ArRecognizer, forge: Callable[[str], Task], token: str) -> None:
    special = plus.tokenizer.special_ids
    harmless, forged = (
        [id for id in plus.plan(forge(text)).prompt if id in special] for text in ("harmless", f"so {token} it")
    )
    assert forged == harmless


NOT_SAID = ("Quilter", "oat milk", "Nile")


@pytest.mark.parametrize("task", [Task(), Task(words=True), Task(language="de")], ids=["text", "words", "german"])
@pytest.mark.parametrize("mode", ["trust", "fast"])
def test_keywords_that_are_not_said_change_nothing_where_the_draft_stands(
    folders: dict[str, Path], mode: Any, task: Task
) -> None:
    recognizer = recognizer_of(folders["granite_speech"], SpeculativeOptions(mode, tau_ctc=100.0))
    plain = recognize_clips(recognizer, CLIPS, task)
    assert any(hypothesis.text for hypothesis in plain) and all(
        hypothesis.accepted == 1.0 for hypothesis in plain if hypothesis.text
    )
    assert recognize_clips(recognizer, CLIPS, replace(task, keywords=NOT_SAID)) == plain


def test_keywords_change_nothing_in_an_answer_but_how_their_own_words_are_spelled(
    recognizer: ArRecognizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = []
    for keywords in ((), NOT_SAID, ("Zulu",)):
        asked = says(monkeypatch, "we met at the zulu bar")
        answers += recognize_clips(recognizer, CLIPS[:1], Task(keywords=keywords))
        assert all(keyword in asked[0] for keyword in keywords)
    plain, with_others, with_its_own = answers
    assert with_others == plain and plain.text == "we met at the zulu bar"
    assert with_its_own == replace(plain, text="we met at the Zulu bar")


@pytest.mark.parametrize("nothing", [(), "", " , ", None], ids=repr)
def test_an_empty_list_of_keywords_is_no_keywords(folders: dict[str, Path], nothing: Any) -> None:
    for name, folder in folders.items():
        model = load_model(folder)
        assert model.transcribe(CLIPS[0], keywords=nothing) == model.transcribe(CLIPS[0]), name
