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
_NAMES = {
    Ours("words=True", "--word-timestamps"): "word_timestamps return_timestamps timestamp_granularities",
    Ours("keywords=", "--keywords"): "hotwords hot_words vocabulary",
    Ours(
        "keywords= for names and terms, prefix= for what was said before, prompt= for an instruction",
        "--keywords for names and terms, --prefix for what was said before",
    ): "initial_prompt",
    Ours("speakers=True", "--speakers"): "diarize speaker_labels",
    Ours("target_language=", "--to"): "target_lang",
    Ours('task="translate"', "--task translate"): "translate",
    Ours("vad=True, the default, or vad=False", "--vad"): "vad_filter vad_parameters no_speech_threshold",
    Ours("load_model(beams=)", "--beams"): "beam_size num_beams best_of",
    Ours("load_model(temperature=)"): "do_sample",
    Ours('load_model(dtype="float16") on a GPU'): "fp16",
    Ours('load_model(dtype="bfloat16")'): "bf16",
    Ours("load_model(dtype=)"): "compute_type torch_dtype",
    Ours('load_model(device="cuda:1")', "--device cuda:1"): "device_index",
    Ours("the first argument of load_model", "--model"): "model_size_or_path model_name model_id model",
    Ours("the environment variables HF_HOME and HF_HUB_OFFLINE"): "download_root model_dir cache_dir local_files_only",
    Ours('Transcript.save("name.srt")', "--format"): "response_format output_format",
    Ours('Transcript.save("folder/name.srt")', "--output-dir"): "output_dir",
    Ours("the first argument, the recording"): "audio file inputs",
    Ours("sample_rate="): "sampling_rate sr",
    Ours("progress=, a function that gets the seconds done and known", "--quiet"): "verbose",
    Ours("a list of recordings, which is batched by itself"): "batch_size",
    Ours("a part of the samples, given as an array with sample_rate="): "clip_timestamps",
    Ours("language=None, the default", "--language auto"): "language_detection detect_language multilingual",
    Ours("digits=False, the default"): "suppress_numerals",
    Ours("SubtitleOptions(max_line_width=) for Transcript.save", "--max-line-width"): "max_line_width",
    Ours("SubtitleOptions(max_line_count=) for Transcript.save", "--max-line-count"): "max_line_count",
    Ours("SubtitleOptions(highlight_words=True) for Transcript.save", "--highlight-words"): "highlight_words",
    _LEAVE_OUT: """
        chunk_length chunk_length_s without_timestamps condition_on_previous_text prompt_reset_on_temperature
        language_detection_segments language_detection_threshold logprob_threshold log_prob_threshold
        compression_ratio_threshold temperature_increment_on_fallback hallucination_silence_threshold repetition_penalty
        no_repeat_ngram_size length_penalty patience suppress_tokens suppress_blank max_new_tokens prepend_punctuations
        append_punctuations
    """,
}
FOREIGN = {name: ours for ours, names in _NAMES.items() for name in names.split()}
"""What other packages call it -> what it is here."""

_HOMES: dict[str, tuple[str, ...]] = {}


def checked(options: type | None = None) -> Callable[[F], F]:
    """Let a function refuse keyword arguments that it does not have with an error that names those it has.

    `options` is the TypedDict of its `**options`, if it has such; its signature then tells their names.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        parameters = list(signature.parameters.values())
        if options is not None:
            parameters[-1:] = [
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=..., annotation=annotation)
                for name, annotation in options.__annotations__.items()
            ]
        known = tuple(each.name for each in parameters if each.name != "self")
        name = function.__name__
        _HOMES[name] = known

        @functools.wraps(function)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            for argument in kwargs:
                if argument not in known:
                    raise UnknownArgumentError(
                        f"{name}() has no argument {argument!r}; {_advice(argument, name, known)}"
                    )
            return function(*args, **kwargs)

        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return cast(F, wrapper)

    return decorate


def _advice(argument: str, function: str, known: tuple[str, ...]) -> str:
    elsewhere = [home for home, names in _HOMES.items() if argument in names and home != function]
    if elsewhere and argument not in FOREIGN:
        return f"it belongs to {elsewhere[0]}({argument}=)"
    if argument in FOREIGN:
        return f"here it is {FOREIGN[argument].python}" if FOREIGN[argument] != _LEAVE_OUT else _LEAVE_OUT.python
    near = difflib.get_close_matches(argument, known, n=1)
    hint = f"did you mean {near[0]}=? " if near else ""
    return f"{hint}allowed are {', '.join(known)}"


def option(argument: str) -> str | None:
    """What to say about an option of another package's command; None for one that the table does not know."""
    ours = FOREIGN.get(argument.lstrip("-").replace("-", "_"))
    if ours is None:
        return None
    if ours.option is not None:
        return f"here it is {ours.option}"
    return _LEAVE_OUT.python if ours == _LEAVE_OUT else f"it is no option here; in Python it is {ours.python}"
