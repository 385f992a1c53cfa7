"""`load_model`: a checkpoint -> a `Transcriber`, on the device and in the precision that are wanted."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Literal, get_args

import torch

from redline import files
from redline import threads as computing
from redline.checkpoints import ar, ctc, nar, vocabulary
from redline.checkpoints.draft_lm import find_draft_lm
from redline.checkpoints.folder import ASSETS, is_quantized, resolve
from redline.checkpoints.heads import DRAFT_HEAD
from redline.checkpoints.word_confidence import find_word_confidence
from redline.decoding.speculative import SpeculativeOptions
from redline.diarize.embedder import SPEAKER_HEAD, SpeakerEmbedder, load_embedder
from redline.diarize.overlap import OVERLAP_HEAD, load_overlap_detector
from redline.engine.crew import run_launches
from redline.engine.decoder import Decoders
from redline.engine.precision import into_precision, pick_dtype, stored
from redline.engine.scheduler import BatchOptions
from redline.engine.twins import Engine, editor_twin, encoder_twin
from redline.errors import RedlineError
from redline.longform.session import SessionOptions
from redline.longform.windows import WindowOptions
from redline.models.ar import ArModel
from redline.models.nar import NarModel
from redline.prompts import PromptTemplate
from redline.recognizer import ArRecognizer, CtcRecognizer, NarRecognizer
from redline.signatures import checked
from redline.transcriber import Transcriber

Effort = Literal["full", "auto", "draft"]
Drafts = Literal["own", "exact", "fast", "trust", "none"]
# Models read better with more around it: only long pauses end a window.
_OPTIONS = SessionOptions(window=WindowOptions(join_s=2.0))
_WORKERS = 4  # parts of a batch at once: more would each be too small for the search
_READ_AHEAD = 16  # on accelerators, which wait for the decoding of recordings; a core decodes some 900 x real time
_READ_AHEAD_CPU = 2  # that which is read and the next one: a worker process decodes while speech is looked for here


@checked()
def load_model(
    name: str | Path = "tiny",
    *,
    revision: str | None = None,
    device: str | None = None,
    dtype: str | torch.dtype | None = None,
    draft_lm: str | Path = "own",
    effort: Effort = "full",
    engine: Engine = "auto",
    punctuate: bool = True,
    beams: int = 1,
    temperature: float = 0.0,
    seed: int = 0,
    drafts: Drafts = "own",
    threads: int | None = None,
) -> Transcriber:
    """Load a bundled model, a folder or a hub id.

    `device` is "cpu", "cuda", "mps" or, by default, the fastest that is there ("auto"); `dtype` is by default
    bfloat16 on CUDA, and, for models that draft and edit, on CPUs with AVX512-BF16 or AMX, int8 on others with AVX2
    where weights are int8 on disk, else float32. `draft_lm` is the n-gram LM of shallow fusion in
    the draft: the checkpoint's "own" if it has one, "none" for a greedy draft, or a `draft_lm.safetensors` of your
    own. With `effort` "draft" the encoder's draft is the text, and nothing else is computed: fast, no capitals,
    more errors; with "auto" the language model reads only clips whose draft is not certain (`drafts` "fast" of
    models that answer prompts; not where it makes the marks that `punctuate` wants). `engine` "packed" is the fast
    twin of the networks on CPUs and CUDA ("auto" takes it where it is), "compiled" the same on CUDA with compiled
    layers, which takes a minute at first, and "plain" the readable networks. With `punctuate` words get capitals
    and marks, where the model has learned them. For models that answer prompts `beams`, `temperature` and `seed`
    say how tokens are chosen (what is drawn for a clip depends on the seed and its sound, not on its place among
    others), and `drafts` how a draft of the encoder is verified: "exact" (the text is that of greedy decoding),
    "fast", "trust" (the draft is the text), "none", or as the checkpoint's "own" config says: trust or exact.
    `threads` compute, for the whole process; by default PyTorch's number, but never more than this process may use.
    Raises `CheckpointError` when it is not a checkpoint this package knows.
    """
    given = {option: value for option, value in locals().items() if option not in ("name", "revision", "threads")}
    computing.check_fork()
    computing.use(threads)
    if effort not in get_args(Effort):
        raise RedlineError(f"effort is {effort!r}; allowed are full, auto, and draft for the encoder's draft alone")
    place = pick_device(device)
    batch = BatchOptions(
        workers=_WORKERS,
        read_ahead=_READ_AHEAD_CPU if place.type == "cpu" else min(_READ_AHEAD, os.cpu_count() or 1),
    )
    folder, label = resolve(name, revision), str(name)
    is_draft = effort == "draft" or ctc.is_ctc(folder)
    precision = given["dtype"] = pick_precision(folder, dtype, place, effort)
    embedding = partial(_load_embedder, folder, place, precision)
    if ar.is_ar(folder) and not is_draft:
        model, trusts_draft, lm, embedder, _ = ar.load_ar(folder, place, stored(precision), draft_lm)
        into_precision(precision, model)
        if embedder is not None:
            embedder.to(next(model.parameters()).dtype)
        config, asked = model.config, f"drafts is {drafts!r}"
        if effort == "auto" and drafts in ("own", "fast"):
            drafts, asked = "fast", "effort is 'auto', which is drafts='fast'"
        elif effort == "auto":
            raise RedlineError(f"{name}: effort is 'auto', which is drafts='fast', and {asked}; leave one of them out")
        if drafts in ("fast", "trust") and model.draft_head is None:
            raise RedlineError(f"{name}: {asked}, but it has no {DRAFT_HEAD} to write them; leave it out")
        if drafts not in ("own", "none") and (beams > 1 or temperature > 0):
            raise RedlineError(
                f"{name}: {asked}, beams {beams} and temperature {temperature:g}; drafts are for greedy "
                "decoding: leave one or the other out"
            )
        if drafts == "own":
            drafts = "trust" if trusts_draft else "exact"
        recognizer = ArRecognizer(
            model,
            vocabulary.load_tokenizer(folder, config),
            PromptTemplate.from_folder(folder, config.kind, config.names_language),
            name=label,
            beams=beams,
            temperature=temperature,
            drafts=None if drafts == "none" else SpeculativeOptions(drafts, config.encoder.tau_ctc),
            draft_lm=lm,
            speaker_embedder=embedder,
            punctuate=punctuate,
            seed=seed,
        )
        recognizer.engine = encoder_twin(model.encoder, config.export_layers, engine, precision)
        recognizer.decoders = Decoders(recognizer)
        recognizer.word_confidence = find_word_confidence(folder)
        return Transcriber(recognizer, _OPTIONS, batch, embedding, partial(_identity, folder, given))
    why = "here the encoder's draft is the text" if is_draft else "this model edits all places at once"
    choices = {"beams": (beams, 1), "temperature": (temperature, 0.0), "seed": (seed, 0), "drafts": (drafts, "own")}
    for option, (value, default) in choices.items():
        if value != default:
            raise RedlineError(f"{name}: {option} is {value}, but {why}; leave it out")
    if is_draft:
        drafting = _load_draft(folder, label, place, stored(precision), draft_lm)
        into_precision(precision, drafting.model, drafting.head)
        drafting.engine = encoder_twin(drafting.model, (), engine, precision)
        drafting.word_confidence = find_word_confidence(folder)
        return Transcriber(drafting, _OPTIONS, batch, embedding, partial(_identity, folder, given))
    editor, nar_config, _ = nar.load_nar(folder, place, stored(precision))
    into_precision(precision, editor)
    lm = find_draft_lm(folder, draft_lm, nar_config.text.vocab_size)
    tokenizer = vocabulary.load_tokenizer(folder, nar_config)
    tau_ctc = nar_config.encoder.tau_ctc if effort == "auto" else None
    editing = NarRecognizer(editor, tokenizer, lm, name=label, punctuate=punctuate, tau_ctc=tau_ctc)
    editing.engine = encoder_twin(editor.encoder, nar_config.encoder_layer_indices, engine, precision)
    editing.networks = editor_twin(editor, engine, precision) or editor
    editing.word_confidence = find_word_confidence(folder)
    return Transcriber(editing, _OPTIONS, batch, embedding, partial(_identity, folder, given))


def _identity(folder: Path, given: Mapping[str, object]) -> str:
    """A hash of the checkpoint's files, and of the options it was loaded with."""
    own_lm = files.file_hash(Path(str(given["draft_lm"])))
    return hashlib.sha256(repr((files.folder_hash(folder), own_lm, given)).encode()).hexdigest()[:16]


def pick_precision(folder: Path, dtype: str | torch.dtype | None, place: torch.device, effort: str) -> torch.dtype:
    """The precision that a checkpoint computes in on a device; raises `RedlineError` for what is none there."""
    reads_prompts = ar.is_ar(folder) and effort != "draft"
    return pick_dtype(dtype, place, reads_prompts=reads_prompts, is_quantized=is_quantized(folder))


def _load_embedder(folder: Path, device: torch.device, precision: torch.dtype) -> SpeakerEmbedder:
    """The checkpoint's own network for voices, or the bundled one; its LSTM is all that takes time."""
    own, bundled = folder / SPEAKER_HEAD, ASSETS / "tiny-plus" / SPEAKER_HEAD
    embedder = load_embedder(own if own.exists() else bundled).to(device).eval()
    if precision == torch.bfloat16:
        embedder.lstm.to(torch.bfloat16)
    detector = load_overlap_detector(ASSETS / "tiny-plus" / OVERLAP_HEAD).to(device)
    embedder.find_overlaps = detector.spans
    if device.type == "cpu":
        embedder.run_launches = partial(run_launches, is_sequential=True)
    return embedder


def _load_draft(
    folder: Path, name: str, device: torch.device, dtype: torch.dtype | None, draft_lm: str | Path
) -> CtcRecognizer:
    """The encoder of any model; the rest of it is not kept."""
    if ctc.is_ctc(folder):
        turbo = ctc.load_ctc(folder, device, dtype)
        tokenizer = vocabulary.load_tokenizer(folder, turbo.config)
        lm = find_draft_lm(folder, draft_lm, turbo.config.output_dim)
        return CtcRecognizer(turbo, turbo, tokenizer, lm, name=name, languages=turbo.config.languages, rule="ctc")
    model: ArModel | NarModel
    if ar.is_ar(folder):
        model, _, lm, _, _ = ar.load_ar(folder, device, dtype, draft_lm)
    else:
        model, config, _ = nar.load_nar(folder, device, dtype)
        lm = find_draft_lm(folder, draft_lm, config.text.vocab_size)
    tokenizer, languages = vocabulary.load_tokenizer(folder, model.config), model.config.languages
    rule = model.config.frame_rule if isinstance(model, NarModel) else "ar"
    return CtcRecognizer(model.encoder, model.draft_head, tokenizer, lm, name=name, languages=languages, rule=rule)


def pick_device(device: str | None) -> torch.device:
    """The device to compute on; raises `RedlineError` when the one asked for is not there."""
    present = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    allowed = ", ".join(["auto", *(name for name, there in present.items() if there)])
    if device is None or device == "auto":
        return torch.device(next(name for name in ("cuda", "mps", "cpu") if present[name]))
    try:
        place = torch.device(device)
    except RuntimeError:
        raise RedlineError(f"no device is called {device!r}; allowed here are {allowed}") from None
    if not present.get(place.type, False):
        raise RedlineError(f"device {device!r} is not available to PyTorch here; allowed are {allowed}")
    return place
