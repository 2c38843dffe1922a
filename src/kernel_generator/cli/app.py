"""The command line: parses, calls the public face, prints, and turns errors into exit codes.

0 all solved, 1 some unsolved, 2 bad input, 3 the provider refused, 130 interrupted.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from typing import Any

import click
import typer

from kernel_generator import __version__
from kernel_generator.cli import doctor, evaluate, generate, listing, optimize
from kernel_generator.domain.errors import InvalidInput, KernelGeneratorError, ProviderError

EXIT_UNSOLVED = 1
EXIT_BAD_INPUT = 2
EXIT_PROVIDER = 3
EXIT_INTERRUPTED = 130

app = typer.Typer(
    name="kernel-generator",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Language models write GPU kernels for FlashInfer-Bench definitions; every kernel is "
    "checked and measured before it counts.",
    epilog="Exit codes: 0 all solved, 1 some unsolved, 2 bad input, 3 the provider refused, "
    "130 interrupted. Keys are read from the environment or .env: LLM_API_KEY (with BASE_URL), "
    "OPENAI_API_KEY, ANTHROPIC_API_KEY, GEMINI_API_KEY.",
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def root(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    """Options of the program itself."""


app.command("list", help="List a trace set's definitions and what is wrong in it.")(
    listing.list_traceset
)
app.command("generate", help="Ask for independent solutions of a definition, without evaluating.")(
    generate.generate
)
app.command("optimize", help="Ask, judge, tell the model what was wrong, and save what passes.")(
    optimize.optimize
)
app.command("evaluate", help="Judge a solution, or a plain source file, on all workloads.")(
    evaluate.evaluate_file
)
app.command("doctor", help="Tell what works on this machine and what to do about the rest.")(
    doctor.doctor
)


def main() -> None:
    """Entry point of `kernel-generator`."""
    signal.signal(signal.SIGTERM, _interrupt)
    wants_json = "--json" in sys.argv
    try:
        result: Any = app(standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.format_message(), err=True)
        code = EXIT_BAD_INPUT
    except click.ClickException as error:
        error.show()
        code = EXIT_BAD_INPUT
    except click.exceptions.Exit as error:
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = EXIT_INTERRUPTED
    except InvalidInput as error:
        code = _fail(error, EXIT_BAD_INPUT, wants_json)
    except ProviderError as error:
        code = _fail(error, EXIT_PROVIDER, wants_json)
    except KernelGeneratorError as error:
        code = _fail(error, EXIT_UNSOLVED, wants_json)
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`): nothing is left to say.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = EXIT_UNSOLVED
    sys.exit(code)


def _fail(error: KernelGeneratorError, code: int, wants_json: bool) -> int:
    click.echo(f"error: {error}", err=True)
    if wants_json:
        click.echo(json.dumps({"error": {"kind": type(error).__name__, "message": str(error)}}))
    return code


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
