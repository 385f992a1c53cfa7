"""Keyword arguments that a function does not have: an error that names ours, also for those of other packages.

One table knows what openai-whisper, faster-whisper, transformers and the OpenAI interface call things.
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar, cast

from redline.errors import UnknownArgumentError

F = TypeVar("F", bound=Callable[..., Any])


class Ours(NamedTuple):
    """What stands for a foreign name: in Python, and as an option of `redline transcribe` (None: nothing does)."""

    python: str
    option: str | None = None


_LEAVE_OUT = Ours("nothing of the kind is needed: leave it out")
_TIMES = Ours("words=True", "--word-timestamps")
_KEYWORDS = Ours("keywords=", "--keywords")
_SPEAKERS = Ours("speakers=True", "--speakers")
_MODEL = Ours("the first argument of load_model", "--model")
_CACHE = Ours("the environment variables HF_HOME and HF_HUB_OFFLINE")
_SAVE = Ours('Transcript.save("name.srt")', "--format")
_VAD = Ours("vad=True, the default, or vad=False", "--vad")
_BEAMS = Ours("load_model(beams=)", "--beams")
FOREIGN = {
    "word_timestamps": _TIMES,
    "return_timestamps": _TIMES,
    "timestamp_granularities": _TIMES,
    "hotwords": _KEYWORDS,
    "hot_words": _KEYWORDS,
    "vocabulary": _KEYWORDS,
    "initial_prompt": Ours(
        "keywords= for names and terms, prefix= for what was said before, prompt= for an instruction",
        "--keywords for names and terms, --prefix for what was said before",
    ),
    "diarize": _SPEAKERS,
    "speaker_labels": _SPEAKERS,
    "target_lang": Ours("target_language=", "--to"),
    "translate": Ours('task="translate"', "--task translate"),
    "vad_filter": _VAD,
    "vad_parameters": _VAD,
    "beam_size": _BEAMS,
    "num_beams": _BEAMS,
    "best_of": _BEAMS,
    "do_sample": Ours("load_model(temperature=)"),
    "fp16": Ours('load_model(dtype="float16") on a GPU'),
    "bf16": Ours('load_model(dtype="bfloat16")'),
    "compute_type": Ours("load_model(dtype=)"),
    "torch_dtype": Ours("load_model(dtype=)"),
    "device_index": Ours('load_model(device="cuda:1")', "--device cuda:1"),
    "model_size_or_path": _MODEL,
    "model_name": _MODEL,
    "model_id": _MODEL,
    "model": _MODEL,
    "download_root": _CACHE,
    "model_dir": _CACHE,
    "cache_dir": _CACHE,
    "local_files_only": _CACHE,
    "response_format": _SAVE,
    "output_format": _SAVE,
    "output_dir": Ours('Transcript.save("folder/name.srt")', "--output-dir"),
    "audio": Ours("the first argument, the recording"),
    "file": Ours("the first argument, the recording"),
    "inputs": Ours("the first argument, the recording"),
    "sampling_rate": Ours("sample_rate="),
    "sr": Ours("sample_rate="),
    "verbose": Ours("progress=, a function that gets the seconds done and known", "--quiet"),
    "batch_size": Ours("a list of recordings, which is batched by itself"),
    "chunk_length": _LEAVE_OUT,
    "chunk_length_s": _LEAVE_OUT,
    "clip_timestamps": Ours("a part of the samples, given as an array with sample_rate="),
    "without_timestamps": _LEAVE_OUT,
    "condition_on_previous_text": _LEAVE_OUT,
    "prompt_reset_on_temperature": _LEAVE_OUT,
    "language_detection_segments": _LEAVE_OUT,
    "language_detection_threshold": _LEAVE_OUT,
    "language_detection": Ours("language=None, the default", "--language auto"),
    "detect_language": Ours("language=None, the default", "--language auto"),
    "multilingual": Ours("language=None, the default", "--language auto"),
    "no_speech_threshold": _VAD,
    "logprob_threshold": _LEAVE_OUT,
    "log_prob_threshold": _LEAVE_OUT,
    "compression_ratio_threshold": _LEAVE_OUT,
    "temperature_increment_on_fallback": _LEAVE_OUT,
    "hallucination_silence_threshold": _LEAVE_OUT,
    "repetition_penalty": _LEAVE_OUT,
    "no_repeat_ngram_size": _LEAVE_OUT,
    "length_penalty": _LEAVE_OUT,
    "patience": _LEAVE_OUT,
    "suppress_tokens": _LEAVE_OUT,
    "suppress_blank": _LEAVE_OUT,
    "max_new_tokens": _LEAVE_OUT,
    "prepend_punctuations": _LEAVE_OUT,
    "append_punctuations": _LEAVE_OUT,
    "suppress_numerals": Ours("digits=False, the default"),
    "max_line_width": Ours("nothing: a subtitle has two lines of 42 characters", "nothing: two lines of 42 characters"),
    "max_line_count": Ours("nothing: a subtitle has two lines of 42 characters", "nothing: two lines of 42 characters"),
    "highlight_words": _LEAVE_OUT,
}
"""What other packages call it -> what it is here."""

_HOMES: dict[str, tuple[str, ...]] = {}


def checked(options: type | None = None) -> Callable[[F], F]:
    """Let a function refuse keyword arguments that it does not have with an error that names those it has.

    `options` is the TypedDict of its `**options`, if it has such; its signature then tells their names.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        parameters = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        fixed = [each for each in parameters if each.kind is not each.KEYWORD_ONLY]
        further = [
            inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=..., annotation=annotation)
            for name, annotation in (options.__annotations__ if options is not None else {}).items()
        ]
        parameters = [*fixed, *further, *parameters[len(fixed) :]]
        known = tuple(each.name for each in parameters if each.name != "self")
        name = function.__name__
        _HOMES[name] = known

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for given in kwargs:
                if given not in known:
                    raise UnknownArgumentError(f"{name}() has no argument {given!r}; {_advice(given, name, known)}")
            return function(*args, **kwargs)

        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return cast(F, wrapper)

    return decorate


def _advice(given: str, function: str, known: tuple[str, ...]) -> str:
    elsewhere = [home for home, names in _HOMES.items() if given in names and home != function]
    if elsewhere and given not in FOREIGN:
        return f"it belongs to {elsewhere[0]}({given}=)"
    if given in FOREIGN:
        return f"here it is {FOREIGN[given].python}" if FOREIGN[given] != _LEAVE_OUT else _LEAVE_OUT.python
    near = difflib.get_close_matches(given, known, n=1)
    hint = f"did you mean {near[0]}=? " if near else ""
    return f"{hint}allowed are {', '.join(known)}"


def option(given: str) -> str | None:
    """What to say about an option of another package's command; None for one that the table does not know."""
    ours = FOREIGN.get(given.lstrip("-").replace("-", "_"))
    if ours is None:
        return None
    if ours.option is not None:
        return f"here it is {ours.option}"
    return _LEAVE_OUT.python if ours == _LEAVE_OUT else f"it is no option here; in Python it is {ours.python}"
