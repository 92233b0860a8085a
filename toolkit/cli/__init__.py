"""The command line: `toolkit COMMAND`. Modules here stay light; heavy imports live inside the commands."""

from __future__ import annotations

import os
import signal
import sys
from typing import NoReturn

from toolkit.shadow import shadowing_message

if _message := shadowing_message():
    print(f"error: {_message}", file=sys.stderr)
    sys.exit(2)

import typer

from runtime.errors import ExitCode, ToolkitError
from runtime.lazy import EXTRA_OF
from toolkit.cli import (
    bench,
    build_engine,
    compare,
    console,
    data,
    demo,
    doctor,
    eval,
    export,
    fit_crop,
    import_,
    inspect,
    report,
    run,
    train,
    verify,
)

app = typer.Typer(
    name="toolkit",
    help="Face-landmark models from training to the edge: every artefact traceable, every number proven.",
    no_args_is_help=True,
    add_completion=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from toolkit import __version__

        typer.echo(f"landmark-toolkit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
) -> None:
    """Face-landmark models from training to the edge: every artefact traceable, every number proven."""


app.command("demo")(demo.run)
app.add_typer(data.app, name="data")
app.command("train")(train.run)
app.command("import")(import_.run)
app.command("verify")(verify.run)
app.command("compare")(compare.run)
app.command("eval")(eval.run)
app.command("export")(export.run)
app.command("build-engine")(build_engine.run)
app.command("bench")(bench.run)
app.command("report")(report.run)
app.command("inspect")(inspect.run)
app.command("doctor")(doctor.run)
app.command("run")(run.run)
app.command("fit-crop")(fit_crop.run)


def _asked_to_end(number: int, _: object) -> NoReturn:
    """SIGTERM ends a command as Ctrl-C does: what is half-written goes."""
    sys.exit(128 + number)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line; people get one clear line, bugs keep their traceback under TOOLKIT_DEBUG=1."""
    signal.signal(signal.SIGTERM, _asked_to_end)
    try:
        code = app(args=arguments, prog_name="toolkit", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else ExitCode.OK)
    except ToolkitError as error:
        if os.environ.get("TOOLKIT_DEBUG"):
            raise
        console.complain(str(error))
        sys.exit(error.exit_code)
    except typer.Abort:
        sys.exit(130)
    except KeyboardInterrupt:
        console.complain("interrupted")
        sys.exit(130)
    except MemoryError:
        console.complain("out of memory; try a smaller --batch-size or close other programs")
        sys.exit(ExitCode.USAGE)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(ExitCode.OK)
    except ModuleNotFoundError as error:
        if os.environ.get("TOOLKIT_DEBUG") or (error.name or "").split(".")[0] not in EXTRA_OF:
            raise
        _explain_missing(str(error.name))
    except Exception as error:
        if os.environ.get("TOOLKIT_DEBUG") or not hasattr(error, "format_message"):
            raise
        _explain_usage(error)


def _explain_missing(name: str) -> NoReturn:
    """A package that this command needs was never installed: the line that brings it, exit code 2."""
    package = name.split(".")[0]
    console.complain(
        f"this command needs the package {package}, which is not installed; "
        f"pip install 'landmark-toolkit[{EXTRA_OF[package]}]'"
    )
    sys.exit(ExitCode.USAGE)


def _explain_usage(error: Exception) -> NoReturn:
    """Wrong flags: the parser's own message, its usage line, exit code 2."""
    show = getattr(error, "show", None)
    if callable(show):
        show()
    sys.exit(ExitCode.USAGE)
