"""`redline train`: make a model from a recipe, a manifest and a folder of text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from redline.cli import console
from redline.errors import ConfigError, DivergedError

if TYPE_CHECKING:
    from redline.train.ar_recipe import SpeechRecipe
    from redline.train.recipe import Recipe

R = TypeVar("R", "Recipe", "SpeechRecipe")
Noise = Annotated[Path | None, typer.Option(help="Folder of noise recordings to mix in.")]
Rooms = Annotated[Path | None, typer.Option(help="Folder of room impulse responses.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads that compute; default: the CPUs it may use.")]
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write each log for TensorBoard, beside it.")]


def train(
    recipe: Annotated[
        str, typer.Argument(help="A bundled recipe (tiny, tiny-multi, tiny-plus, nle-2b) or a .toml file.")
    ],
    data: Annotated[
        Path, typer.Option(help="Manifest: one JSON object a line with audio, text, duration, language and split.")
    ],
    out: Annotated[Path, typer.Option(help="Folder of the run; an interrupted run goes on from here.")] = Path(
        "runs/tiny"
    ),
    text: Annotated[Path | None, typer.Option(help="Folder of .txt files for the language models.")] = None,
    noise: Noise = None,
    rooms: Rooms = None,
    voices: Annotated[
        Path | None, typer.Option(help="Manifest of more readers for the voice head (kind recipes); no texts needed.")
    ] = None,
    voice_weights: Annotated[
        Path | None, typer.Option(help="Published weights that the voice head begins with (docs/training.md).")
    ] = None,
    stage: Annotated[
        list[str] | None,
        typer.Option(
            help="Run only this stage (repeatable): tokenizer, encoder, draft_lm, lm, editor, export; "
            "for tiny-plus tokenizer, lm, draft_lm, answers, voices, export."
        ),
    ] = None,
    threads: Threads = None,
    tensorboard: TensorBoard = False,
) -> None:
    """Train a model: tokenizer, encoder, both language models, editor, then export in the published layout.

    A recipe with a `kind` makes an AR or Plus model on the encoder of another: tokenizer, lm, draft_lm,
    answers, voices, export.

    Every stage resumes where it stopped when the same command is given again. Losses and scores are written to
    OUT/<stage>/log.jsonl and drawn in log.png beside it; the finished model is OUT/model.
    """
    with training_errors(out):
        from redline.threads import use
        from redline.train.ar import SPEECH_STAGES, build_speech
        from redline.train.ar_recipe import SpeechRecipe
        from redline.train.nar import STAGES, Materials, build
        from redline.train.recipe import Recipe, read_values

        use(threads)
        say = console.Notes().print
        materials = Materials(data, out, text, noise, rooms, voices, voice_weights)
        values, where = read_values(recipe)
        if "kind" in values:
            speech_recipe = _logged(SpeechRecipe.from_dict(values, where), tensorboard)
            build_speech(speech_recipe, materials, stage or SPEECH_STAGES, say)
        elif voices or voice_weights:
            raise ConfigError("--voices and --voice-weights are for recipes with a `kind`, such as tiny-plus")
        else:
            build(_logged(Recipe.from_dict(values, where), tensorboard), materials, stage or STAGES, say)


def _logged(recipe: R, tensorboard: bool) -> R:
    """A recipe whose stages write for TensorBoard too, where that is asked for."""
    from redline.train.loop.optim import TrainingOptions

    values = {field.name: getattr(recipe, field.name) for field in fields(recipe)}
    sections: dict[str, Any] = {
        name: replace(value, tensorboard=tensorboard)
        for name, value in values.items()
        if isinstance(value, TrainingOptions)
    }
    return replace(recipe, **sections)


@contextmanager
def training_errors(out: Path) -> Iterator[None]:
    """How a training ends that does not finish: exit status 1 for a loss that is no number, what is missing, Ctrl-C."""
    try:
        yield
    except DivergedError as error:
        raise console.refused(error, 1) from error
    except ImportError as error:
        raise console.lacking(error, "train") from error
    except KeyboardInterrupt:
        console.Notes().print(f"redline: stopped; the same command goes on from {out}", style="yellow")
        raise typer.Exit(console.INTERRUPTED) from None
