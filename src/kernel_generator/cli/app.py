"""The command line: parses, calls the public face, prints, and turns errors into exit codes.

0 all solved, 1 some unsolved, 2 bad input, 3 the provider refused, 130 interrupted; 70 is a fault
of this program.
"""

from __future__ import annotations

import functools
import json
import os
import signal
import sys
import traceback
from io import TextIOWrapper
from typing import TYPE_CHECKING, Any

import typer

from kernel_generator import __version__
from kernel_generator.cli import (
    doctor,
    evaluate,
    generate,
    history,
    letters,
    listing,
    optimize,
    resume,
    sharing,
)
from kernel_generator.cli.exits import Exit
from kernel_generator.domain.errors import InvalidInput, KernelGeneratorError, ProviderError
from kernel_generator.inert import inert

if TYPE_CHECKING:
    from collections.abc import Callable

UsageError: Any = typer.BadParameter.__bases__[0]
"""What typer raises for a command line it cannot read. Newer releases carry a click of their own
and give the class no public name; it is the base of the one that they do name."""


class _Interrupted(Exception):
    """Ctrl-C, as an exception that typer lets through."""


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


def _interruptible(command: Callable[..., Any]) -> Callable[..., Any]:
    """The command, with Ctrl-C as `_Interrupted`: typer would end the program without a word."""

    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> Any:
        try:
            return command(*arguments, **options)
        except KeyboardInterrupt:
            raise _Interrupted from None

    return run


app.command("list", help="List a trace set's definitions and what is wrong in it.")(
    _interruptible(listing.list_traceset)
)
app.command("generate", help="Ask for independent solutions of a definition, without evaluating.")(
    _interruptible(generate.generate)
)
app.command("optimize", help="Ask, judge, tell the model what was wrong, and save what passes.")(
    _interruptible(optimize.optimize)
)
app.command("evaluate", help="Judge a solution, or a plain source file, on all workloads.")(
    _interruptible(evaluate.evaluate_file)
)
app.command("resume", help="Go on with runs that were stopped, where they were.")(
    _interruptible(resume.resume)
)
app.command("runs", help="List the runs that are kept.")(_interruptible(history.runs))
app.command("show", help="Show what happened in one run.")(_interruptible(history.show))
app.command("export", help="Write a run for another machine, and what passed as files.")(
    _interruptible(sharing.export)
)
app.command("import", help="Take in a run that another machine exported.")(
    _interruptible(sharing.import_bundle)
)
prompts = typer.Typer(no_args_is_help=True, help="Requests for a model that is asked elsewhere.")
prompts.command("export", help="Write the requests of a run that wait for a reply.")(
    _interruptible(letters.export_prompts)
)
app.add_typer(prompts, name="prompts")
replies = typer.Typer(no_args_is_help=True, help="Replies of a model that was asked elsewhere.")
replies.command("import", help="Take the replies that lie in a folder.")(
    _interruptible(letters.import_replies)
)
app.add_typer(replies, name="replies")
app.command("doctor", help="Tell what works on this machine and what to do about the rest.")(
    _interruptible(doctor.doctor)
)


def main() -> None:
    """What `kernel-generator` does in its process."""
    signal.signal(signal.SIGTERM, _interrupt)
    if isinstance(sys.stdout, TextIOWrapper):
        # A name may hold what the terminal's encoding, or any, has no bytes for.
        sys.stdout.reconfigure(errors="backslashreplace")
    wants_json = "--json" in sys.argv
    try:
        result: Any = app(standalone_mode=False)
        code = result if isinstance(result, int) else 0
    except UsageError as error:
        code = _misused(error, wants_json)
    except (KeyboardInterrupt, typer.Abort, _Interrupted):
        code = _fail("interrupted", "Interrupted", Exit.INTERRUPTED, wants_json)
    except InvalidInput as error:
        code = _fail(str(error), type(error).__name__, Exit.BAD_INPUT, wants_json)
    except ProviderError as error:
        code = _fail(str(error), type(error).__name__, Exit.PROVIDER, wants_json)
    except KernelGeneratorError as error:
        code = _fail(str(error), type(error).__name__, Exit.UNSOLVED, wants_json)
    except BrokenPipeError:
        # The reader of stdout has gone (`| head`): nothing is left to say.
        code = Exit.UNSOLVED
    except Exception as error:  # noqa: BLE001 - the outermost boundary: what escapes is our fault
        traceback.print_exc()
        told = f"a fault of kernel-generator itself: {type(error).__name__}: {error}"
        code = _fail(told, "Fault", Exit.FAULT, wants_json)
    sys.exit(_let_go_of_stdout(code))


def _let_go_of_stdout(code: int) -> int:
    """How the program ends once what it said is out. Python itself would end otherwise, with words
    of its own, where it finds only then that nobody takes it."""
    try:
        sys.stdout.flush()
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if not isinstance(error, BrokenPipeError):
            print(f"error: stdout cannot be written: {error.strerror}", file=sys.stderr)
            return code or Exit.UNSOLVED
    return code


def _misused(error: Any, wants_json: bool) -> int:
    """Say what is wrong with the command line, and where its help is."""
    message: str = error.format_message()
    if error.ctx is not None and not sys.argv[1:]:
        # Without arguments the message is the help itself.
        print(message, file=sys.stderr)
        return Exit.BAD_INPUT
    code = _fail(message, "UsageError", Exit.BAD_INPUT, wants_json)
    if error.ctx is not None:
        print(f"see {error.ctx.command_path} --help", file=sys.stderr)
    return code


def _fail(message: str, kind: str, code: int, wants_json: bool) -> int:
    said = message if code == Exit.INTERRUPTED else f"error: {message}"
    print(inert(said), file=sys.stderr)
    if wants_json:
        print(json.dumps({"error": {"kind": kind, "message": message}}))
    return code


def _interrupt(_signal: int, _frame: object) -> None:
    raise KeyboardInterrupt
