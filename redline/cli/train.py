"""`redline train`: make a model from a recipe, a manifest and a folder of text."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer

from redline.cli import console
from redline.errors import ConfigError, DivergedError, packages_of

ModelName = Annotated[str, typer.Option("--model", help="A bundled model, a folder or a hub id.")]
DraftLm = Annotated[str, typer.Option("--draft-lm", help="n-gram LM fused into the draft: own, none, or a file.")]
Noise = Annotated[Path | None, typer.Option(help="Folder of noise recordings to mix in.")]
Rooms = Annotated[Path | None, typer.Option(help="Folder of room impulse responses.")]
Device = Annotated[str | None, typer.Option(help="cpu, cuda, mps, ...; default: the fastest there is.")]
Threads = Annotated[int | None, typer.Option(min=1, help="Threads that compute; default: the CPUs it may use.")]
EncoderEngine = Annotated[
    str,
    typer.Option(
        "--engine",
        callback=console.choice_of("auto", "packed", "compiled", "plain"),
        help="Networks: packed (the fast twin), compiled (the same on CUDA, a minute at first), plain (readable).",
    ),
]
Precision = Annotated[
    str | None, typer.Option("--dtype", help="float32, bfloat16, int8 (CPUs), float16 or fp8 (CUDA).")
]
ModelEffort = Annotated[str, typer.Option(help="full; draft: the encoder's draft is the text; auto: where certain.")]
Punctuate = Annotated[bool, typer.Option("--punctuation/--no-punctuation", help="Casing and marks.")]
_RAY_HELP = "Train under Ray Train: on this machine (local), or in the cluster at auto or HOST:PORT."
TensorBoard = Annotated[bool, typer.Option("--tensorboard", help="Also write each log for TensorBoard, beside it.")]


def train(
    recipe: Annotated[
        str, typer.Argument(help="A bundled recipe (tiny, tiny-further, tiny-editor, tiny-multi ...) or .toml file.")
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
            help="Run only this stage (repeatable): tokenizer, imitation, encoder, draft_lm, lm, editor, export; "
            "for tiny-plus tokenizer, draft_lm, answers, voices, export."
        ),
    ] = None,
    device: Device = None,
    threads: Threads = None,
    tensorboard: TensorBoard = False,
    ray: Annotated[str | None, typer.Option(metavar="ADDRESS", help=_RAY_HELP)] = None,
    workers: Annotated[int, typer.Option(min=1, help="With --ray: processes; with GPUs each has one.")] = 1,
) -> None:
    """Train a model: tokenizer, imitation, encoder, both language models, editor, then export in the published layout.

    A recipe with a `kind` makes an AR or Plus model on the encoder of another: tokenizer, draft_lm, answers,
    voices, export.

    Every stage resumes where it stopped when the same command is given again. Losses and scores are written to
    OUT/<stage>/log.jsonl and drawn in log.png beside it; the finished model is OUT/model.
    """
    with training_errors(out):
        from redline.threads import use
        from redline.train.ray_train import train_on_ray
        from redline.train.recipe import read_recipe
        from redline.train.run import Materials, build

        use(threads)
        chosen = read_recipe(recipe)
        if (voices or voice_weights) and not hasattr(chosen, "kind"):
            raise ConfigError("--voices and --voice-weights are for recipes with a `kind`, such as tiny-plus")
        materials = Materials(data, out, text, noise, rooms, voices, voice_weights, tensorboard)
        if ray is None:
            build(chosen, materials, stage or (), console.Notes().print, device)
            return
        if device not in (None, "cpu", "cuda"):
            raise ConfigError(f"--device {device}: with --ray it is cpu or cuda; which one, Ray says")
        _train_on_ray(ray, workers, threads, device, partial(train_on_ray, chosen, materials, stage or ()))


def _train_on_ray(address: str, workers: int, threads: int | None, device: str | None, train: Any) -> None:
    """Join or start Ray, and train there."""
    from redline.cluster.ray_start import RayOptions, ray_package, start_ray
    from redline.train.ray_train import RayTrainOptions

    start_ray(RayOptions(None if address == "local" else address), shows_output=True)
    gpus = int(ray_package().cluster_resources().get("GPU", 0))
    train(RayTrainOptions(workers, threads or 1, bool(gpus) and device != "cpu"), console.Notes().print)


@contextmanager
def training_errors(out: Path) -> Iterator[None]:
    """How a training ends that does not finish: exit status 1 for a loss that is no number, what is missing, Ctrl-C."""
    try:
        with packages_of("train", "training"):
            yield
    except DivergedError as error:
        raise console.refused(error, 1) from error
    except KeyboardInterrupt:
        console.Notes().print(f"redline: stopped; the same command goes on from {out}", style="yellow")
        raise typer.Exit(console.INTERRUPTED) from None
