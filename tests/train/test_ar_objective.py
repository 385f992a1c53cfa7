"""Training of AR and Plus models: what is asked, what is answered, and a run from a recipe to a checkpoint."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from redline import load_model
from redline.checkpoints import ar, nar
from redline.decoding import tags
from redline.decoding.ctc import greedy
from redline.decoding.ctc_beam import BeamOptions
from redline.diarize.embedder import SpeakerEmbedder
from redline.errors import ConfigError, DataError
from redline.manifest import read_manifest, write_manifest
from redline.models.ar import ArModel
from redline.models.config import ArKind, QFormerConfig
from redline.models.nar import NarModel
from redline.prompts import PromptTemplate
from redline.recognizer import ArRecognizer
from redline.testing import tiny_ar_checkpoint
from redline.tokenizer import Tokenizer
from redline.train.ar import TEMPLATE, build_speech
from redline.train.ar_recipe import SpeechRecipe
from redline.train.conversation import ConversationOptions
from redline.train.data.bpe import train_tokenizer
from redline.train.data.tasks import Answer, Asker, TaskOptions, said_of, tags_of
from redline.train.finetune import ArTuning, FinetuneOptions, finetune
from redline.train.loop.optim import TrainingOptions
from redline.train.nar import Materials
from redline.train.objectives.ar import AnswerBatch, AnswerObjective, AnswerOptions, Prompter, written
from redline.train.objectives.ngram import NgramOptions
from redline.train.objectives.speaker_embedding import VoiceTrainingOptions
from redline.train.recipe import read_values
from redline.train.states import StateOptions
from redline.types import Task, Turn, Word
from tests.corpus import make_corpus, silent, small_recipe

TEXTS = ["the zebra sat", "a giraffe ran to the house", "the zebra and the house", "the house"]
WORDS = (Word(0.31, 0.52, "the"), Word(0.55, 0.98, "zebra"), Word(1.6, 2.03, "sat"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A NAR checkpoint with random weights, whose encoder is built upon."""
    folder = tmp_path_factory.mktemp("base")
    train_tokenizer(TEXTS, 270, folder / "tokenizer.json")
    torch.manual_seed(0)
    model = NarModel(small_recipe().config(Tokenizer.from_file(folder / "tokenizer.json")))
    return nar.save_nar(folder / "model", model, folder / "tokenizer.json")


@pytest.fixture(scope="module")
def manifest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The made-up corpus with word times, and some of it as if two had said it."""
    folder = tmp_path_factory.mktemp("corpus")
    path = make_corpus(folder)
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    for number, row in enumerate(rows):
        words = row["text"].split()
        if number % 3 == 0:
            middle = 0.3
            row["turns"] = [
                {"speaker": "1", "start": 0.0, "end": middle, "text": words[0]},
                {"speaker": "2", "start": middle, "end": row["duration"], "text": " ".join(words[1:])},
            ]
        else:
            row["words"] = [{"start": 0.3 * at, "end": 0.3 * at + 0.3, "text": word} for at, word in enumerate(words)]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    return path


def recipe(base: Path, **training: object) -> SpeechRecipe:
    loop = {"steps": 4, "warmup_steps": 1, "evaluate_every": 4, "log_every": 2, "precision": "no", **training}
    return SpeechRecipe.from_dict(
        {
            "kind": "granite_speech_plus",
            "encoder_from": str(base),
            "export_layers": [1],
            "window_size": 2,
            "downsample_rate": 2,
            "projector": {
                "hidden_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "intermediate_size": 16,
                "hidden_dropout_prob": 0.0,
            },
            "language_model": {
                "hidden_size": 16,
                "intermediate_size": 32,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 8,
                "max_position_embeddings": 1024,
                "attention_multiplier": 0.125,
            },
            "augment": {"views": 2},
            "tasks": {"rare_count": 3, "rare_letters": 3, "tick_s": 0.04},
            "answers": {"batch_s": 4, "epoch_batches": 6, "text_share": 0.0, "audio_ctc_weight": 0.5},
            "answer_training": loop,
        }
    )


def test_what_can_be_asked_is_told_by_the_manifest() -> None:
    asker = Asker(TEXTS, TaskOptions(rare_count=2, rare_letters=4))
    assert asker.rare == {"zebra", "giraffe"}
    assert set(asker.tasks_of(Answer("the zebra sat"))) == {"transcribe", "keywords"}
    assert set(asker.tasks_of(Answer("the zebra sat", WORDS))) == {"transcribe", "keywords", "words"}
    assert set(asker.tasks_of(Answer("a b", turns=(Turn("1", 0, 1, "a"),)))) == {"speakers"}
    assert set(asker.tasks_of(Answer("a", target_text="b", target_language="de"))) == {"translate"}
    assert "words" not in Asker(TEXTS, TaskOptions(words=0)).tasks_of(Answer("the zebra sat", WORDS))
    never = Asker(TEXTS, TaskOptions(transcribe=0, keywords=0, speakers=0, translate=0, tick_s=0.07))
    assert set(never.tasks_of(Answer("the zebra sat", WORDS))) == {"words"}
    dialogue, translated = (
        Answer("a b", turns=(Turn("1", 0, 1, "a"),)),
        Answer("a", target_text="b", target_language="de"),
    )
    assert [never.tasks_of(said) for said in (Answer("the zebra sat"), dialogue, translated)] == [{}, {}, {}]


def test_keywords_are_rare_words_of_the_text_among_others_that_are_not_said() -> None:
    asker = Asker(TEXTS, TaskOptions(rare_count=2, rare_letters=4))
    drawn = [asker.ask("keywords", Answer("the zebra sat"), random.Random(seed)) for seed in range(50)]
    prompts = {request.keywords for request, _ in drawn}
    assert all(answer == "the zebra sat" for _, answer in drawn)
    assert prompts <= {("zebra",), ("giraffe",), ("zebra", "giraffe"), ("giraffe", "zebra"), ()}
    assert {("zebra",), ("giraffe",)} <= prompts


def test_answers_with_times_are_read_back() -> None:
    asker = Asker(TEXTS, TaskOptions(tick_s=0.04, min_silence_s=0.1))
    request, answer = asker.ask("words", Answer("the zebra sat", WORDS), random.Random(0))
    assert request.words
    read = tags.parse(answer).words
    assert [word.text for word in read] == ["the", "zebra", "sat"]
    for got, wanted in zip(read, WORDS, strict=True):
        assert abs(got.end - wanted.end) <= 0.02 + 1e-9
    assert read[1].start == read[0].end and read[2].start > read[1].end  # 0.03 s is no silence, 0.6 s is one


def test_times_follow_the_speed_of_a_view() -> None:
    slower = Answer("the zebra sat", WORDS).scaled(1.25)
    assert slower.words[2].end == pytest.approx(2.03 * 1.25)


def test_answers_with_speakers_are_read_back() -> None:
    turns = (Turn("1", 0, 1, "the zebra"), Turn("2", 1, 2, "sat"))
    _, answer = Asker(TEXTS, TaskOptions()).ask("speakers", Answer("the zebra sat", turns=turns), random.Random(0))
    assert [(turn.speaker, turn.text) for turn in tags.parse(answer).turns] == [("1", "the zebra"), ("2", "sat")]


def test_every_tag_is_one_token_and_decodes_to_what_is_parsed(base: Path, manifest: Path, tmp_path: Path) -> None:
    build_speech(recipe(base), Materials(manifest, tmp_path), ["tokenizer"], silent)
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    for tag in tags_of(0.04):
        assert len(tokenizer.encode(tag)) == 1, tag
    text = "_ [T:20] the [T:60] zebra [T:96]"
    ids = tokenizer.encode(text)
    assert len(ids) == len(tokenizer.encode("_")) + len(tokenizer.encode("the")) + len(tokenizer.encode("zebra")) + 3
    assert tags.parse(tokenizer.decode(ids)) == tags.parse(text)
    assert tokenizer.encode("The ZEBRA") == tokenizer.encode("the zebra") and tokenizer.id_of("<|audio|>") is not None
    before = Tokenizer.from_file(base / "tokenizer.json")
    assert tokenizer.encode("the zebra") == before.encode("the zebra"), "the base's draft would mean other words"


def test_a_recipe_makes_a_model_that_answers_and_goes_on_where_it_stopped(
    base: Path, manifest: Path, tmp_path: Path
) -> None:
    said: list[str] = []
    build_speech(recipe(base), Materials(manifest, tmp_path), ["tokenizer", "answers"], said.append)
    assert any(line.startswith("task speakers") for line in said) and any("words_loss" in line for line in said)
    said.clear()
    build_speech(recipe(base, steps=6), Materials(manifest, tmp_path), ["answers", "export"], said.append)
    assert any("going on from step 4 of 6" in line for line in said)
    model = load_model(tmp_path / "model")
    recognizer = model.recognizer
    assert isinstance(recognizer, ArRecognizer)
    # The encoder is the base's, and its draft too.
    old, new = nar.load_nar(base)[0], ar.load_ar(tmp_path / "model").model
    for name, tensor in new.encoder.state_dict().items():
        torch.testing.assert_close(tensor, old.encoder.state_dict()[name], atol=1e-3, rtol=1e-3)
    assert new.draft_head is not None
    clip = read_manifest(manifest)[0].audio
    for asked in ({}, {"keywords": ["sea"]}, {"words": True}, {"speakers": True}):
        assert model.transcribe(clip, vad=False, **asked).duration > 0


def test_a_head_for_voices_is_trained_and_tells_speakers(base: Path, manifest: Path, tmp_path: Path) -> None:
    made = replace(
        recipe(base),
        trusts_draft=True,
        voices=VoiceTrainingOptions(size=4, voices=4, pieces=2, piece_s=(0.2, 0.4)),
        voice_training=TrainingOptions(steps=3, precision="no", evaluate_every=3),
    )
    said: list[str] = []
    network = SpeakerEmbedder().state_dict()
    torch.save({"model_state": network}, tmp_path / "network.pt")
    rows = [
        {**row.to_dict(), "text": "", "id": f"more-{row.id}", "speaker": "third"} for row in read_manifest(manifest)
    ]
    more = write_manifest(tmp_path / "more.jsonl", rows)
    materials = Materials(manifest, tmp_path, voices=more, voice_weights=tmp_path / "network.pt")
    build_speech(made, materials, ["tokenizer", "answers", "voices", "export"], said.append)
    # Three speeds of the views, three lengths of the vocal tract.
    assert "voices: 27 of 3 speakers" in said and any("eer" in line for line in said)
    recognizer = load_model(tmp_path / "model").recognizer
    assert isinstance(recognizer, ArRecognizer) and recognizer.speaker_embedder is not None
    learned = recognizer.speaker_embedder.state_dict()
    for name, weight in network.items():  # what is held is written too, to within a byte
        if name.startswith(("lstm.weight", "linear.weight")):
            assert float((learned[name] - weight).abs().max()) < 1.01 * float(weight.abs().max()) / 254
    assert not recognizer.limits(Task(speakers=True)).needs_previous
    with pytest.raises(DataError, match="no trained voices yet"):
        build_speech(made, Materials(manifest, tmp_path / "new"), ["tokenizer", "answers", "export"], silent)


def test_n_grams_guidance_and_conversations_are_used(base: Path, manifest: Path, tmp_path: Path) -> None:
    (tmp_path / "books").mkdir()
    (tmp_path / "books" / "book.txt").write_text("the cat sat on the mat. a dog ran to the red house.\n\n" * 30)
    made = replace(
        recipe(base),
        draft_lm=NgramOptions(order=3, kept=100),
        draft_search=BeamOptions(width=4, lm_weight=0.5),
        states=StateOptions(renderings=1, least_score=-100.0),
        conversations=ConversationOptions(share=1.0, words=(1, 2)),
        answers=replace(recipe(base).answers, guide_weight=0.5, guide_layers=(0, 1)),
        tasks=replace(recipe(base).tasks, transcribe=0.2, keywords=0.0, words=0.2, speakers=5.0),
    )
    said: list[str] = []
    materials = Materials(manifest, tmp_path / "out", tmp_path / "books")
    build_speech(made, materials, ["tokenizer", "draft_lm", "answers", "export"], said.append)
    assert any(line.startswith("conversations: 100% of those heard, between 2 speakers") for line in said)
    assert any("guide" in line for line in said) and any("n-grams" in line for line in said)
    checkpoint = ar.load_ar(tmp_path / "out" / "model")
    assert checkpoint.draft_lm is not None and checkpoint.draft_lm.options == made.draft_search
    assert ar.load_ar(tmp_path / "out" / "model", draft_lm="none").draft_lm is None


def test_the_draft_is_that_of_the_base(base: Path, manifest: Path, tmp_path: Path) -> None:
    build_speech(recipe(base, steps=1), Materials(manifest, tmp_path), ["tokenizer", "answers", "export"], silent)
    old, new = nar.load_nar(base)[0], ar.load_ar(tmp_path / "model").model
    x, lengths = torch.randn(2, 60, 160), torch.tensor([60, 33])
    with torch.no_grad():
        heard = old.encode(x, lengths)
        assert new.draft_head is not None
        assert greedy(*new.draft_head(new.encode(x, lengths)), new.draft_head.blank) == greedy(
            *old.draft_head(heard), old.draft_head.blank
        )


def test_answers_are_learned(base: Path, tmp_path: Path) -> None:
    """Three clips that sound different, three answers: after some steps each clip gets its own."""
    made = recipe(base)
    known = Tokenizer.from_file(base / "tokenizer.json")
    import tokenizers

    core = tokenizers.Tokenizer.from_file(str(base / "tokenizer.json"))
    core.add_special_tokens(["<|start_of_role|>", "<|end_of_role|>", "<|audio|>"])
    core.save(str(tmp_path / "tokenizer.json"))
    tokenizer = Tokenizer.from_file(tmp_path / "tokenizer.json")
    torch.manual_seed(1)
    model = ArModel(made.config(nar.load_nar(base)[0].encoder.config, tokenizer))
    assert isinstance(model.config.projector, QFormerConfig) and known.vocab_size < tokenizer.vocab_size
    prompter = Prompter(PromptTemplate.from_source(TEMPLATE, "granite_speech_plus"), tokenizer)
    texts = ("the zebra", "a house", "sat")
    asked = [Asker(texts, TaskOptions()).ask("transcribe", Answer(text), random.Random(0)) for text in texts]
    batch = AnswerBatch(
        torch.randn(3, 12, 32),
        None,
        torch.tensor([12, 9, 6]),
        tuple(prompter(request) for request, _ in asked),
        tuple(tuple(tokenizer.encode(answer)) for _, answer in asked),
        texts,
        ("transcribe",) * 3,
        1.0,
    )
    objective = AnswerObjective(model, tokenizer, AnswerOptions(audio_ctc_weight=0.3)).train()
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    frozen = [tensor.clone() for tensor in model.encoder.state_dict().values()]
    first: float | None = None
    for _ in range(900):
        loss, parts = objective(batch)
        first = float(parts["answer"]) if first is None else first
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    assert first is not None and float(parts["answer"]) < first / 50
    with torch.no_grad():
        assert written(objective.eval(), batch) == list(texts)
    assert all(torch.equal(*pair) for pair in zip(frozen, model.encoder.state_dict().values(), strict=True))


def test_the_bundled_recipe_can_be_read() -> None:
    values, where = read_values("tiny-plus")
    made = SpeechRecipe.from_dict(values, where)
    assert made.kind == "granite_speech_plus" and made.window_size == made.downsample_rate == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "granite"}, "allowed are granite_speech, granite_speech_plus"),
        ({"nonsense": 1}, "unknown key 'nonsense'"),
        ({"states": {"renderings": 0}}, "renderings is 0"),
        ({"tasks": {"words": -1}}, "0 \\(never\\) and above"),
        ({"tasks": {"tick_s": 0.015}}, "whole centiseconds"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_told(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        SpeechRecipe.from_dict({"kind": "granite_speech_plus", **changes})


def test_stages_out_of_order_are_told(base: Path, manifest: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the stage 'tokenizer' first"):
        build_speech(recipe(base), Materials(manifest, tmp_path), ["answers"], silent)
    with pytest.raises(DataError, match="no trained answers yet"):
        build_speech(recipe(base), Materials(manifest, tmp_path), ["tokenizer", "export"], silent)
    with pytest.raises(ConfigError, match="no stage"):
        build_speech(recipe(base), Materials(manifest, tmp_path), ["editor"], silent)


@pytest.mark.parametrize(("kind", "rank", "encoder"), [("granite_speech", 2, False), ("granite_speech_plus", 0, True)])
def test_a_model_that_answers_can_be_fine_tuned(
    tmp_path: Path, manifest: Path, kind: ArKind, rank: int, encoder: bool
) -> None:
    began = tiny_ar_checkpoint(tmp_path / "began", kind)
    assert ArTuning(began).rule == "ar"
    options = FinetuneOptions(steps=3, lr=0.003, lora_rank=rank, train_encoder=encoder, blend=1.0, text="spoken")
    said: list[str] = []
    made = finetune(began, manifest, tmp_path / "run", options, said.append)
    assert any("loss" in line for line in said)
    old, new = (ar.load_ar(folder).model.state_dict() for folder in (began, made))
    changed = {name.split(".")[0] for name, tensor in new.items() if not torch.equal(tensor, old[name])}
    assert changed == {"projector", "language_model", *(["encoder"] if encoder else [])}
    assert old.keys() == new.keys()
    assert load_model(made).transcribe(read_manifest(manifest)[0].audio, vad=False).duration > 0


def test_the_manifest_says_what_a_model_is_taught(tmp_path: Path) -> None:
    def row(**fields: object) -> Answer:
        path = tmp_path / "manifest.jsonl"
        path.write_text(json.dumps({"audio": "a.wav", "text": "guten Tag", "duration": 1, **fields}) + "\n")
        return said_of(read_manifest(path)[0])

    asker = Asker(TEXTS, TaskOptions(), "granite_speech")
    told = row(language="de", target_text="good day", target_language="en")
    request, answer = asker.ask(next(iter(asker.tasks_of(told))), told, random.Random(0))
    assert (request.verb, request.language, request.target_language, answer) == ("translate", "de", "en", "good day")
    assert asker.tasks_of(row(task="transcribe", keywords=["Tag"])) == {"transcribe": 1.0}
    assert row(words=[{"start": 0, "end": 1, "text": "guten"}]).words == ()  # not the words of the text
    for fields, message in (
        ({"task": "sing"}, "allowed are transcribe, keywords"),
        ({"task": "speakers"}, "there are no turns"),
        ({"target_text": "good day"}, "without target_language"),
    ):
        with pytest.raises(DataError, match=message):
            row(**fields)
