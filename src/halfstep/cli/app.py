"""The ``halfstep`` command: its sub-commands, and the one place where errors become messages."""

from __future__ import annotations

import traceback
from importlib import metadata
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from halfstep.cli import benchmark, check, demo, evaluate, export, finetune, listing, quantize, reproduce
from halfstep.cli.messages import Terminated, message
from halfstep.cli.terminal import complain, errors, say

INTERRUPTED, TERMINATED = 130, 143  # 128 + SIGINT, 128 + SIGTERM, as shells have it


class Boundary(TyperGroup):
    """All commands, and around each of them the answer to everything that a user can mend: one message, a status, no traceback.

    Wrong options are reported by typer itself. Anything else that comes through is a defect of halfstep and shows its traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the command of ``ctx``."""
        is_debugged = bool(ctx.params.get("debug"))
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interrupt:
            status = TERMINATED if isinstance(interrupt, Terminated) else INTERRUPTED
            fail(str(interrupt) or "Interrupted: nothing was written.", status, is_debugged)
        except Exception as error:
            text = message(error)
            if text is None:  # of the pipe whose reader has gone typer makes a quiet end
                raise
            fail(text, 1, is_debugged)


def fail(message: str, status: int, is_debugged: bool) -> NoReturn:
    """Print ``message`` on standard error, after the traceback where asked for, and leave with ``status``."""
    if is_debugged:
        errors().print(traceback.format_exc())
    if status in (INTERRUPTED, TERMINATED):
        errors().print(message)
    else:
        complain(message)
    raise typer.Exit(status)


app = typer.Typer(
    name="halfstep",
    cls=Boundary,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Example: halfstep quantize net.py:trained --data images.npz --out run",
)


def show_version(is_asked: bool) -> None:
    """Print the version and leave."""
    if not is_asked:
        return
    try:
        say(f"halfstep {metadata.version('halfstep')}")
    except metadata.PackageNotFoundError:
        say("halfstep, version unknown: it runs from its sources without being installed")
    raise typer.Exit


@app.callback()
def halfstep(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of every error.")] = False,  # read by Boundary
    version: Annotated[  # acts in its callback
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Quantize a trained network: a float model in, a verified low-bit model and a report out."""


app.command("quantize", epilog=quantize.EXAMPLE)(quantize.quantize)
app.command("finetune", epilog=finetune.EXAMPLE)(finetune.finetune)
app.command("evaluate", epilog=evaluate.EXAMPLE)(evaluate.evaluate)
app.command("export", epilog=export.EXAMPLE)(export.export)
app.command("check", epilog=check.EXAMPLE)(check.check)
app.command("benchmark", epilog=benchmark.EXAMPLE)(benchmark.benchmark)
app.command("demo", epilog=demo.EXAMPLE)(demo.demo)
app.command("reproduce", epilog=reproduce.EXAMPLE)(reproduce.reproduce)
app.command("list", epilog=listing.EXAMPLE)(listing.listing)
