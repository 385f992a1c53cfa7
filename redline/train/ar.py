"""A recipe of an AR or Plus model applied to data: tokenizer, encoder states, answers, export; each stage resumes."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace

import tokenizers
import torch

from redline.checkpoints import ar, nar
from redline.checkpoints.draft_lm import DRAFT_LM, load_draft_lm
from redline.diarize import embedder as voices
from redline.errors import ConfigError, DataError
from redline.features import pad
from redline.manifest import Utterance, read_manifest
from redline.models.ar import ArModel
from redline.models.draft_head import DraftHead
from redline.models.granite import INITIAL_STD
from redline.models.nar import NarModel
from redline.prompts import AUDIO, PromptTemplate
from redline.punctuation import strip_punctuation
from redline.tokenizer import Tokenizer
from redline.train.ar_recipe import SpeechRecipe
from redline.train.conversation import Conversations
from redline.train.data.batches import FeatureView, spoken, taught
from redline.train.data.corrupt import CorruptionOptions
from redline.train.data.feature_cache import make_views
from redline.train.data.tasks import Answer, Asker, tags_of
from redline.train.loop.checkpointing import STATE, load_average, make_folder
from redline.train.loop.distributed import first_process_first, is_first_process, only_first, wait_for_all
from redline.train.loop.loop import Say, fit
from redline.train.loop.run_record import RUN_RECORD, run_record, write_record
from redline.train.loop.stage import share_done
from redline.train.nar import Materials
from redline.train.objectives.ar import AnswerBatch, AnswerObjective, AnswerSource, AnswerStage, Prompter
from redline.train.objectives.lm import LMObjective, LMStage, read_books
from redline.train.objectives.nar import merge_adapters
from redline.train.objectives.ngram import make_draft_lm
from redline.train.objectives.speaker_embedding import Pieces, VoiceStage, read_network
from redline.train.splice import SplicedSource
from redline.train.states import StateView, build_states
from redline.types import Turn, Word

SPEECH_STAGES = ("tokenizer", "lm", "draft_lm", "answers", "voices", "export")
ROLES = ("<|start_of_role|>", "<|end_of_role|>")
TEMPLATE = (
    "{% for message in messages if message['role'] == 'user' %}"
    "<|start_of_role|>user<|end_of_role|>{{ message['content'] }}<|end_of_text|>\n"
    "{% endfor %}<|start_of_role|>assistant<|end_of_role|>"
)
"""The chat of models trained here: that of the cards without its system text, which would only cost positions."""
DEV_BATCH = 8
DEV_MOST = 64
"""Dev utterances per task that are watched."""


class SpeechBuild:
    """One run of a recipe: its data, its folders and its stages."""

    def __init__(self, recipe: SpeechRecipe, materials: Materials, say: Say) -> None:
        self.recipe, self.materials, self.say, self.out = recipe, materials, say, materials.out
        self.base, _, self.base_folder = nar.load_nar(recipe.encoder_from)
        self.template = PromptTemplate.from_source(TEMPLATE, recipe.kind)
        self.train_set, self.dev_set = (self._speech(split) for split in ("train", "dev"))
        for name, rows in (("train", self.train_set), ("dev", self.dev_set)):
            if not rows:
                raise DataError(
                    f"{materials.data}: no utterance with language {' or '.join(recipe.languages)} and split {name!r}"
                )
        hours = sum(row.duration for row in self.train_set) / 3600
        turns, words = (sum(bool(getattr(row, key)) for row in self.train_set) for key in ("turns", "words"))
        say(f"{len(self.train_set)} utterances, {hours:.2f} h to train on; {turns} have turns, {words} word times")

    def _speech(self, split: str) -> list[Utterance]:
        rows = taught(self.materials.data, split=split, language=self.recipe.languages, say=self.say)
        return [row for row in rows if self._spoken(row.text)]

    def _spoken(self, text: str) -> str:
        return spoken(text, self.recipe.letters)

    def said(self, row: Utterance) -> Answer:
        """What the manifest tells about an utterance, in the words that the model writes."""
        words = [Word(word.start, word.end, self._spoken(word.text)) for word in row.words]
        turns = [Turn(turn.speaker, turn.start, turn.end, self._spoken(turn.text)) for turn in row.turns]
        text = self._spoken(row.text)
        timed = " ".join(word.text for word in words) == text and not turns
        keywords = tuple(filter(None, map(self._spoken, row.keywords)))
        return Answer(text, tuple(words) if timed else (), tuple(turns), keywords, duration=row.duration)

    def _tokenizer(self) -> Tokenizer:
        path = self.out / "tokenizer.json"
        if not path.exists():
            raise DataError(f"{path} is missing: run the stage 'tokenizer' first")
        return Tokenizer.from_file(path)

    def tokenizer(self) -> None:
        """That of the encoder's checkpoint, with control tokens and one token for every tag; its ids stay."""
        path = self.out / "tokenizer.json"
        if path.exists() or not is_first_process():
            return
        core = tokenizers.Tokenizer.from_file(str(self.base_folder / "tokenizer.json"))
        if self.recipe.letters == "a-z":  # it knows no capitals, but users will write them in keywords
            core.normalizer = tokenizers.normalizers.Lowercase()
        core.add_special_tokens([tokenizers.AddedToken(name, special=True) for name in (*ROLES, AUDIO)])
        if self.recipe.kind == "granite_speech_plus":
            tags = tags_of(self.recipe.tasks.tick_s)
            # A tag takes the space before it along, so that it costs one token.
            core.add_tokens([tokenizers.AddedToken(tag, lstrip=True, normalized=False) for tag in tags])
        core.save(str(path))
        self.say(f"tokenizer: {core.get_vocab_size()} tokens")

    def _model(self) -> ArModel:
        """The base's encoder and draft, a new projector and language model."""
        torch.manual_seed(self.recipe.answer_training.seed)
        model = ArModel(self.recipe.config(self.base.config.encoder, self._tokenizer()))
        heard = self.base.encoder.state_dict()
        model.encoder.load_state_dict({name: heard[name] for name in heard if not name.startswith("out_bpe")})
        model.draft_head = self._draft_head(model)
        if self.recipe.language_model_from_base:
            begin_with(model, self.base.language_model.state_dict())
        return model

    def _draft_head(self, model: ArModel) -> DraftHead:
        """The base's token head, whose blank gets a row of its own behind all tokens."""
        own, blank = self.base.encoder.out_bpe, self.base.config.blank_token_id
        assert own is not None
        encoder = model.config.encoder
        head = DraftHead(encoder.hidden_dim, own.rows + 1, blank=own.rows, window=encoder.bpe_pooling_window)
        with torch.no_grad():
            for mine, theirs in ((head.weight, own.weight), (head.bias, own.bias)):
                mine.copy_(torch.cat((theirs, theirs[blank : blank + 1])))
            head.bias[blank] = -1e4  # the end of a text is not part of it
        return head

    def _books(self) -> list[str]:
        if self.materials.text is None:
            return []
        progress = share_done(self.say, "text", len(list(self.materials.text.rglob("*.txt"))) or 1)
        with first_process_first():
            return read_books(self.materials.text, self.out / "text", progress, self.recipe.letters)

    def lm(self) -> None:
        """The language model reads books, if the recipe has steps for it."""
        recipe = self.recipe
        if not recipe.lm_training.steps:
            return
        books = [strip_punctuation(line) for line in self._books()]
        if not books:
            raise DataError("the language model needs text: name a folder of .txt files with --text")
        torch.manual_seed(recipe.lm_training.seed)
        model = self._model()
        objective = LMObjective(model.language_model, self._tokenizer(), recipe.text, model.config.text.eos_token_id)
        fit(LMStage(objective, books, CorruptionOptions()), recipe.lm_training, self.out / "lm", self.say)

    def draft_lm(self) -> None:
        """n-grams of the books for the draft, in the tokens of the encoder's own checkpoint."""
        options, folder = self.recipe.draft_lm, self.out / "draft_lm"
        if not options.order or (folder / DRAFT_LM).exists():
            return
        books = self._books()
        if not is_first_process():
            return
        if not books:
            raise DataError("the draft's n-grams need text: name a folder of .txt files with --text")
        known = Tokenizer.from_file(self.base_folder / "tokenizer.json")
        boundary = self.base.config.blank_token_id
        lines = [strip_punctuation(line) for line in books]
        make_draft_lm(lines, known, boundary, options, self.recipe.draft_search, folder, self.say)

    def _listener(self) -> NarModel:
        """The base model, whose encoder hands out the layers that this model reads."""
        layers = (*self.recipe.export_layers, -1)
        config = self.base.config
        shape = replace(config.projector, num_encoder_layers=len(layers))
        self.base.config = replace(config, projector=shape, encoder_layer_indices=layers)
        return self.base

    def _states(self, rows: Sequence[Utterance], views: Sequence[FeatureView]) -> list[StateView]:
        recipe, tokenizer = self.recipe, Tokenizer.from_file(self.base_folder / "tokenizer.json")
        total = sum(row.duration for row in rows)
        device = self.base.projector.query.device
        mixed = recipe.answer_training.uses_bf16(device)
        with first_process_first(), torch.autocast(device.type, torch.bfloat16, enabled=mixed):
            return build_states(
                self._listener(),
                tokenizer,
                rows,
                views,
                recipe.states,
                recipe.state_augment,
                self.out / "states",
                lambda label: share_done(self.say, label, total),
            )

    def _objective(self) -> AnswerObjective:
        model = self._model()
        if self.recipe.lm_training.steps:
            if not (self.out / "lm" / STATE).exists():
                raise DataError(f"{self.out} has no trained lm yet: run the stage 'lm' first")
            holder = torch.nn.Module()
            holder.language_model = model.language_model
            load_average(self.out / "lm", holder)
        return AnswerObjective(model, self._tokenizer(), self.recipe.answers)

    def _views(self, rows: Sequence[Utterance]) -> tuple[list[FeatureView], FeatureView]:
        augment = self.materials.augment(self.recipe.augment)
        return make_views(rows, self.dev_set, augment, self.out / "views", self.say, "ar")

    def answers(self) -> None:
        recipe = self.recipe
        objective = self._objective()
        rows = [replace(row, text=self._spoken(row.text)) for row in self.train_set]
        views, dev_view = self._views(self.train_set)
        states = self._states(rows, views)
        known = Tokenizer.from_file(self.base_folder / "tokenizer.json")
        said = {row.id: self.said(row) for row in self.train_set}
        durations = {row.id: row.duration for row in self.train_set}
        asker = Asker((one.text for one in said.values()), recipe.tasks, recipe.kind)
        prompter = Prompter(self.template, self._tokenizer())
        books = self._books()
        spliced = None
        if books and recipe.answers.text_share:
            texts = {row.id: (recipe.languages[0], said[row.id].text) for row in self.train_set}
            layers = len(recipe.export_layers) + 1
            blank = self.base.config.blank_token_id
            spliced = SplicedSource(states, texts, {recipe.languages[0]: books}, known, blank, layers, recipe.splice)
        conversations = None
        if recipe.conversations.share and "speakers" in asker.tasks_of(Answer("", turns=(Turn("1", 0.0, 0.0, ""),))):
            speakers = {row.id: row.speaker for row in self.train_set if not row.turns}
            conversations = Conversations(states, speakers, known, recipe.conversations)
            voices = len(conversations.by_speaker)
            self.say(f"conversations: {recipe.conversations.share:.0%} of those heard, between {voices} speakers")
        source = AnswerSource(states, said, durations, spliced, asker, prompter, recipe.answers, conversations)
        for task, share in sorted(source.weights.items()):
            self.say(f"task {task}: {len(source.by_task[task])} utterances, weight {share:g}")
        stage = AnswerStage(objective, source, self._dev(dev_view, asker, prompter))
        fit(stage, recipe.answer_training, self.out / "answers", self.say)

    @torch.no_grad()
    def _dev(self, view: FeatureView, asker: Asker, prompter: Prompter) -> list[AnswerBatch]:
        """Fixed questions about dev utterances, of every task."""
        by_task: dict[str, list[tuple[Utterance, Answer]]] = {}
        for row in sorted(self.dev_set, key=lambda row: row.duration):
            if row.id in view.offsets:
                one = self.said(row)
                for task in asker.tasks_of(one):
                    by_task.setdefault(task, []).append((row, one))
        listener = self._listener().eval()
        batches = []
        for task, found in sorted(by_task.items()):
            chosen = found[:: max(1, len(found) // DEV_MOST)]
            for start in range(0, len(chosen), DEV_BATCH):
                part = chosen[start : start + DEV_BATCH]
                encoded = listener.encode(*pad([view[row.id] for row, _ in part]))
                draw = random.Random(start)
                asked = [asker.ask(task, one, draw) for _, one in part]
                batches.append(
                    AnswerBatch(
                        torch.cat(encoded.exports, dim=-1),
                        None,
                        encoded.lengths,
                        tuple(prompter(request) for request, _ in asked),
                        tuple(tuple(prompter.tokenizer.encode(answer)) for _, answer in asked),
                        tuple(one.text for _, one in part),
                        (task,) * len(part),
                        sum(row.duration for row, _ in part),
                    )
                )
        return batches

    def _voices(self) -> VoiceStage:
        weights = self.materials.voice_weights
        network = read_network(weights) if weights is not None else None  # before features are made for nothing
        more = self._readers()
        views, dev_view = self._views(self.train_set)
        pieces, dev = Pieces(self.train_set, views), Pieces(self.dev_set, [dev_view])
        if more:
            pieces.add(more, self._views(more)[0])
        return VoiceStage(pieces, dev, self.recipe.voices, self.recipe.voice_training.seed, network)

    def _readers(self) -> list[Utterance]:
        """More readers for the voices alone."""
        if self.materials.voices is None:
            return []
        named = read_manifest(self.materials.voices)
        more = [row for row in named if row.duration > 0 and row.speaker]
        if not more:
            raise DataError(f"{self.materials.voices}: none of {len(named)} rows tells speaker and duration")
        if len(more) < len(named):
            self.say(f"left out: {len(named) - len(more)} rows without speaker or duration")
        self.say(f"{self.materials.voices}: {len({row.speaker for row in more})} more readers for the voices")
        return more

    def voices(self) -> None:
        """The head that tells voices apart, if the recipe has steps for it."""
        if self.recipe.voice_training.steps:
            stage = self._voices()
            self.say(f"voices: {len(stage.voices)} of {stage.pieces.speakers} speakers")
            if self.materials.voice_weights is None:
                self.say("voices: no --voice-weights, so the whole network is learned from the beginning")
            fit(stage, self.recipe.voice_training, self.out / "voices", self.say)
            if is_first_process():  # the average has what was trained; the file has what was held, too
                load_average(self.out / "voices", stage.objective)
                voices.save_embedder(stage.objective.head, self.out / "voices" / voices.SPEAKER_HEAD)

    def export(self) -> None:
        if not is_first_process():
            return
        if not (self.out / "answers" / STATE).exists():
            raise DataError(f"{self.out} has no trained answers yet: run the stage 'answers' first")
        objective = self._objective()
        load_average(self.out / "answers", objective)
        if self.recipe.answers.lora_rank:
            merge_adapters(objective.model.language_model)
        draft_lm = speaker_embedder = None
        if (path := self.out / "draft_lm" / DRAFT_LM).exists():
            assert objective.model.draft_head is not None
            draft_lm = load_draft_lm(path, objective.model.draft_head.rows - 1)
            draft_lm.options = self.recipe.draft_search
        if self.recipe.voice_training.steps:
            if not (self.out / "voices" / voices.SPEAKER_HEAD).exists():
                raise DataError(f"{self.out} has no trained voices yet: run the stage 'voices' first")
            speaker_embedder = voices.load_embedder(self.out / "voices" / voices.SPEAKER_HEAD)
        target = ar.save_ar(
            self.out / "model",
            objective.model,
            self.out / "tokenizer.json",
            draft_lm,
            speaker_embedder,
            chat_template=TEMPLATE,
            dtype=torch.float16,
            overwrite=True,
        )
        data = {"train": self.train_set, "dev": self.dev_set}
        run = run_record("train", self.recipe.encoder_from, asdict(self.recipe), data)
        write_record(target / RUN_RECORD, run)
        size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
        self.say(f"export: {target} ({size:.1f} MB), ready for `redline transcribe --model {target}`")


@torch.no_grad()
def begin_with(model: ArModel, known: Mapping[str, torch.Tensor]) -> None:
    """Give the language model what another of the same shape knows; its new tokens and the sound become as loud.

    Raises `ConfigError` when the shapes differ.
    """
    for name, tensor in model.language_model.state_dict().items():
        old = known.get(name)
        rows = name.endswith("embed_tokens.weight")
        if old is None or old.shape[1:] != tensor.shape[1:] or (len(old) != len(tensor) and not rows):
            raise ConfigError(
                f"language_model_from_base: {name} is {list(tensor.shape)} here and "
                f"{list(old.shape) if old is not None else 'absent'} there; [language_model] must have the base's shape"
            )
        tensor[: len(old)] = old
        if rows:
            std = float(old.float().std())
            tensor[len(old) :] *= std / INITIAL_STD
            # Left as it is, the sound would drown the words in the residual stream.
            weight = model.projector.linear.weight
            weight *= std / float(weight.float().norm(dim=1).mean())


def build_speech(recipe: SpeechRecipe, materials: Materials, stages: Sequence[str], say: Say) -> None:
    """Run the named stages in their order; raises `ConfigError` for a stage that does not exist."""
    if unknown := set(stages) - set(SPEECH_STAGES):
        raise ConfigError(f"no stage {sorted(unknown)}; stages of this recipe are {', '.join(SPEECH_STAGES)}")
    make_folder(materials.out)
    run = SpeechBuild(recipe, materials, only_first(say))
    for name in SPEECH_STAGES:
        if name in stages:
            getattr(run, name)()
            wait_for_all()
