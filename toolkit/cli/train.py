"""`toolkit train`: every key of the recipe is a flag; the flags are made from the recipe's own table."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from runtime.errors import UsageError
from toolkit.cli import console
from train.recipe import KEYS, Key, Recipe

if TYPE_CHECKING:
    from train.loop import Outcome
    from train.rundir import Row
    from train.watch import Moment

SECTION_TITLES = {
    "model": "Model",
    "data": "Data",
    "augment": "Augmentation",
    "loss": "Loss",
    "distill": "Teachers",
    "optimizer": "Optimizer",
    "schedule": "Schedule",
    "average": "Average of weights",
    "qat": "Quantisation-aware fine-tuning",
    "run": "Machine and saving",
}

HELP = """Train a landmark model, or go on with a run.

Every choice is a key of a recipe; [bold]--config[/bold] reads one, flags override it, and the recipe in effect is kept
as recipe.toml in the run's folder. The best checkpoint is chosen by validation NME; test faces are measured once, at
the end.

[bold]Examples[/bold]

  toolkit train --data synth:4000 --model ghostone --width 0.25 -o runs/first

  toolkit train --config recipes/ghostone-025.toml --data /data/WFLW --lr 1e-3 -o runs/wflw

  toolkit train --resume -o runs/wflw

  toolkit train --qat --init runs/wflw/best.ckpt --data /data/WFLW -o runs/wflw-int8

  torchrun --nproc-per-node 4 -m toolkit train --config recipes/ghostone-100.toml --data /data/WFLW -o runs/ddp
"""

OUT_HELP = "folder of the run; runs/NAME-WIDTH when a new run names none"


def _run(out: Path | None, config: Path | None, resume: bool, force: bool, given: Mapping[Key, Any]) -> None:
    """Settle the recipe, train, show what came of it."""
    if resume and (force or config is not None):
        other = "--force" if force else "--config"
        raise UsageError(
            f"--resume goes on with the recipe of the run, so {other} contradicts it; leave one of them out"
        )
    if resume and out is None:
        raise UsageError("--resume needs the folder of the run: toolkit train --resume -o runs/NAME")
    from runtime.lazy import require

    require("torch", "training")
    from toolkit.qat import train
    from train.resume import resumed_recipe
    from train.rundir import RunDirectory
    from train.settle import settle

    if resume and out is not None:
        recipe, folder = resumed_recipe(RunDirectory(out), given), out
    else:
        recipe, notes = settle(config, given)
        for note in notes:
            console.say(note)
        int8 = "-int8" if recipe.qat.enabled else ""
        folder = out or Path("runs") / f"{recipe.model.architecture}-{recipe.model.width:g}{int8}"
    outcome = train(recipe, folder, resume=resume, force=force, watch=Terminal(recipe, folder))
    if outcome.measured:
        _show(outcome)
    if not outcome.finished and not outcome.measured:
        raise typer.Exit(130)


def _show(outcome: Outcome) -> None:
    from train.metrics import as_percent_rows

    for name, found in outcome.measured.items():
        title = f"{name} (best epoch {outcome.best_epoch}; {found.normaliser}, crop {found.crop})"
        console.show(
            console.table(title, ("faces", "count", "NME %", "FR@0.1 %", "AUC@0.1"), as_percent_rows(found.scores))
        )
    print(f"best checkpoint: {outcome.folder.best}")


class Terminal:
    """Shows a run: bars where stderr is a terminal, a line per epoch where it is not."""

    def __init__(self, recipe: Recipe, folder: Path) -> None:
        self.recipe, self.folder = recipe, folder
        self._head_shown = False

    def note(self, text: str) -> None:
        """A line on stderr."""
        console.say(text)

    @contextmanager
    def working(self, label: str, pieces: int) -> Iterator[Callable[[], object]]:
        """A bar for the preparation."""
        with console.progress(label, pieces) as advance:
            yield lambda: advance(1)

    @contextmanager
    def training(self, steps: int, done: int) -> Iterator[Callable[[Moment], object]]:
        """A bar over all steps, with loss, NME and speed."""
        console.say(f"recipe in effect, kept as {self.folder / 'recipe.toml'}:")
        console.say(_changed(self.recipe))
        with console.progress("training", steps) as advance:
            if done:
                advance(done)
            shown = done

            def tell(moment: Moment) -> None:
                nonlocal shown
                note = (
                    f"epoch {moment.epoch}  loss {moment.loss:.3f}  NME {100 * moment.nme:.2f} %  "
                    f"{moment.images_per_second:.0f} images/s"
                )
                advance(moment.step - shown, note=note)
                shown = moment.step

            yield tell

    def epoch(self, row: Row, best: bool) -> None:
        """A line per epoch."""
        if not self._head_shown:
            console.say(
                "epoch   train loss   train NME %   val NME %   FR@0.1 %   AUC@0.1   images/s   waiting for data"
            )
            self._head_shown = True
        busy = row["data_seconds"] + row["model_seconds"]
        waiting = 100 * row["data_seconds"] / busy if busy else 0.0
        console.say(
            f"{row['epoch']:5.0f} {row['train_loss']:12.4f} {row['train_nme']:13.3f} {row['val_nme']:11.3f} "
            f"{row['val_fr']:10.2f} {row['val_auc']:9.4f} {row['images_per_second']:10.0f} {waiting:16.0f} %"
            + ("  best" if best else "")
        )


def _changed(recipe: Recipe) -> str:
    """The keys that differ from the defaults, on a line each."""
    lines = []
    for (section, name), key in KEYS.items():
        value = getattr(getattr(recipe, section), name)
        if value != key.default:
            lines.append(f"  {section}.{name} = {list(value) if key.many else value}")
    return "\n".join(lines) or "  all defaults"


def _parameters() -> list[inspect.Parameter]:
    """The command's parameters: its own four, then one for each key of the recipe."""
    kind = inspect.Parameter.KEYWORD_ONLY
    own = {
        "out": (Path | None, typer.Option(None, "--out", "-o", help=OUT_HELP, show_default=False)),
        "config": (
            Path | None,
            typer.Option(None, "--config", "-c", help="recipe to start from (TOML)", show_default=False),
        ),
        "resume": (bool, typer.Option(False, "--resume", help="go on with the run in --out, exactly where it stopped")),
        "force": (bool, typer.Option(False, "--force", help="overwrite the run in --out")),
    }
    parameters = [
        inspect.Parameter(name, kind, default=option, annotation=hint) for name, (hint, option) in own.items()
    ]
    for key in KEYS.values():
        hint = list[key.kind] if key.many else key.kind  # type: ignore[name-defined]
        parameters.append(inspect.Parameter(_parameter_name(key), kind, default=_option(key), annotation=hint | None))
    return parameters


def _option(key: Key) -> Any:
    names = f"--{key.flag}/--no-{key.flag}" if key.kind is bool else f"--{key.flag}"
    choices = f" ({', '.join(key.choices)})" if key.choices else ""
    default = "" if key.many or key.default == "" else f" [dim]default: {_shown(key.default)}[/dim]"
    text = f"{key.help}{choices}{default}"
    return typer.Option(None, names, help=text, rich_help_panel=SECTION_TITLES[key.section], show_default=False)


def _shown(value: Any) -> str:
    return (
        {True: "on", False: "off"}[value]
        if isinstance(value, bool)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def _parameter_name(key: Key) -> str:
    return f"{key.section}_{key.name}"


def run(**values: Any) -> None:
    given = {key: values[_parameter_name(key)] for key in KEYS.values()}
    asked = {key: value for key, value in given.items() if value is not None and value != []}
    _run(values["out"], values["config"], values["resume"], values["force"], asked)


run.__doc__ = HELP
run.__signature__ = inspect.Signature(_parameters())  # type: ignore[attr-defined]
run.__annotations__ = {parameter.name: parameter.annotation for parameter in _parameters()}
