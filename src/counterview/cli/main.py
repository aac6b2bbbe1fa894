"""The command line: ``counterview COMMAND``.

The commands are in the other modules of this package, one a module. Only typer is imported before a command runs, so
that ``--help`` is fast.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from typing import Annotated, Any

import typer

from counterview import __version__
from counterview.cli import (
    convert,
    demo,
    doctor,
    evaluate,
    export,
    follow,
    inspect,
    match,
    predict,
    prepare,
    reproduce,
    serve,
    submit,
    tabletop,
    train,
)
from counterview.errors import CounterviewError

app = typer.Typer(
    name="counterview",
    help="Point at an object in one camera; find it in the other camera, and follow it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

# Typer has its own copy of click from 0.20 on and uses the public one before; either is a base class of its error.
_USAGE_ERROR: Any = next(cls for cls in typer.BadParameter.__mro__ if cls.__name__ == "ClickException")

for command in (
    demo.demo,
    match.match,
    follow.follow,
    serve.serve,
    tabletop.tabletop,
    inspect.inspect,
    prepare.prepare,
    train.train,
    predict.predict,
    evaluate.evaluate,
    reproduce.reproduce,
    submit.submit,
    convert.convert,
    export.export,
    doctor.doctor,
):
    app.command()(command)


def _version(value: bool) -> None:
    if value:
        print(__version__)
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log what is being done, with times.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Set up logging from the options before the command."""
    logging.basicConfig(
        level=logging.DEBUG if debug else logging.INFO if verbose else logging.WARNING,
        format="%(levelname)s %(name)s: %(message)s",
        stream=sys.stderr,
    )


def _let_threads_wait() -> None:
    """Have OpenMP's idle threads sleep, unless the user has chosen otherwise.

    By default they spin between two parallel regions, and take the cores from the threads that work: on busy cores, as
    of a shared node or a container, half of the time. It is read when torch is loaded.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME"} & os.environ.keys():
        os.environ["OMP_WAIT_POLICY"] = "PASSIVE"


def main(arguments: list[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Exit codes: 0 done, 1 failed, 2 bad input, 130 stopped with Ctrl-C; a command may have further ones.

    Args:
        arguments: command and options; those of the process by default.
    """
    if arguments is None:  # a process of our own: what a program of somebody else's sets is left as it is
        _let_threads_wait()
        arguments = sys.argv[1:]
    debug = "--debug" in arguments
    # All are allowed anywhere: people add them at the end of a command that failed or seems to hang.
    for flags in (("--debug",), ("--verbose", "-v")):
        if any(flag in arguments for flag in flags):
            arguments = [flags[0], *(a for a in arguments if a not in flags)]
    arguments = arguments or ["--help"]
    if getattr(sys.stdout, "errors", None) == "strict" and hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # names of files that are not UTF-8
    try:
        result = app(arguments, standalone_mode=False)
        sys.stdout.flush()
        if result == 130:  # typer turns Ctrl-C into this
            raise KeyboardInterrupt
        return result if isinstance(result, int) else 0
    except typer.Exit as stop:
        return stop.exit_code
    except (KeyboardInterrupt, typer.Abort):
        print("counterview: stopped", file=sys.stderr)
        return 130
    except _USAGE_ERROR as error:
        print(f"counterview: {error.format_message()} See --help.", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of the output closed the pipe, as `head` does; without this, Python reports it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except CounterviewError as error:
        if debug:
            raise
        print(f"counterview: {error}", file=sys.stderr)
        return error.exit_code
    except OSError as error:
        if debug:
            raise
        named = "" if error.filename is None else f"{os.fsdecode(error.filename)}: "
        reason = " ".join((error.strerror or str(error)).split()) or type(error).__name__
        print(f"counterview: {named}a file cannot be read or written; found {reason[:300]}", file=sys.stderr)
        return 2 if named or error.errno in (errno.ENOSPC, errno.EDQUOT) else 1
    except Exception as error:
        if debug:
            raise
        text = " ".join(str(error).split()) or "no message"
        print(
            f"counterview: failed with {type(error).__name__}: {text[:300]}. Run again with --debug for the traceback.",
            file=sys.stderr,
        )
        return 1


if __name__ == "__main__":
    sys.exit(main())
