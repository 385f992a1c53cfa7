"""How speech is found and cut, from the options of the command line."""

from __future__ import annotations

from dataclasses import replace

import typer

from redline.longform.session import SessionOptions


def session_options(
    options: SessionOptions | None,
    vad: bool,
    threshold: float | None,
    min_silence_s: float | None,
    pad_s: float | None,
    window_s: float | None,
) -> SessionOptions:
    """Options (None: the common ones) with what is given.

    Raises `ConfigError` for what cannot be, and `BadParameter` for what contradicts itself.
    """
    detection = {"--vad-threshold": threshold, "--min-silence": min_silence_s, "--pad": pad_s}
    given = [name for name, value in detection.items() if value is not None]
    if given and not vad:
        raise typer.BadParameter("speech is not detected with --no-vad; leave that out", param_hint=" ".join(given))
    options = options or SessionOptions()
    finding, window = options.vad if vad else None, options.window
    if finding is not None and threshold is not None:  # speech ends at the same share of it as ever
        finding = replace(finding, onset=threshold, offset=threshold * finding.offset / finding.onset)
    if finding is not None and min_silence_s is not None:
        finding = replace(finding, min_silence_s=min_silence_s)
    window = replace(window, pad_s=window.pad_s if pad_s is None else pad_s, max_s=window_s)
    return replace(options, vad=finding, window=window)
