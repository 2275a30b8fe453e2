"""Entry point of vrtg: the command tree, and one sentence for whatever goes wrong."""

from __future__ import annotations

import os
import sys
from importlib.metadata import version

from cyclopts import App, CycloptsError

from vrtg import failures

PROLOGUE = "One declarative API for virtual machines on every hypervisor."
COMMANDS = {
    "Stack": {
        "up": ("stack", "Start the embedded stack: API server, controller and its providers."),
        "down": ("stack", "End the embedded stack."),
        "status": ("stack", "Show the embedded stack: processes, address, providers, problems."),
        "logs": ("logs", "Show what the API server, the controller or a provider logged."),
        "certs": ("certs", "Make and renew the certificates of a stack that is put together by hand."),
        "demo": ("demo", "Bring up the stack and the quickstart machine, and show what happens."),
    },
    "Containers": {
        "credentials": ("credentials", "Make certificate, tokens and kubeconfigs for an API server in a container."),
        "hand-over": ("credentials", "Copy keys out of a container."),
    },
    "Objects": {
        "get": ("get", "Show objects."),
        "describe": ("describe", "Show one object in full, with its conditions and events."),
        "apply": ("apply", "Create or change the objects of a file or folder."),
        "delete": ("delete", "Delete objects."),
        "plan": ("plan", "Show what applying a file would change on the hypervisor, and why."),
    },
    "Machines": {
        "power": ("power", "Switch a machine on or off, restart, suspend or resume it."),
        "console": ("console", "Connect to the serial console of a machine (Ctrl-] leaves), or print its URL."),
        "screenshot": ("screenshot", "Save a picture of a machine's display, as PNG."),
    },
}


def build() -> App:
    """The command tree; a command's module is imported when it is called."""
    app = App(
        name="vrtg",
        help=PROLOGUE,
        version=lambda: f"vrtg {version('virtrigaud-cli')}",
        help_format="plaintext",
        result_action="return_value",
        exit_on_error=False,
        print_error=False,
        suppress_keyboard_interrupt=False,
    )
    for group, commands in COMMANDS.items():
        for name, (module, text) in commands.items():
            app.command(f"vrtg.commands.{module}:{name.replace('-', '_')}", name=name, group=group, help=text)
    internal = App(name="stack", help="The supervisor behind `vrtg up`.", show=False)
    internal.command("vrtg.commands.stack:run", name="run")
    internal.command("vrtg.commands.stack:keep_libvirt", name="keep-libvirt")
    app.command(internal)
    return app


def main(arguments: list[str] | None = None) -> int:
    """Run one command; answers with the exit code."""
    try:
        result = build()(sys.argv[1:] if arguments is None else arguments)
        sys.stdout.flush()
        return result if isinstance(result, int) else failures.OK
    except CycloptsError as error:
        return _fail(_usage(error), failures.USAGE)
    except failures.CommandError as error:
        return _fail(str(error), error.code)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # The reader went away (`vrtg get vm | head`); nothing is wrong, and Python must not flush again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failures.OK
    except Exception as error:  # a bug of ours: still one sentence, and the trace for whoever reports it
        if os.environ.get("VRTG_DEBUG"):
            raise
        text = f"{type(error).__name__}: {error}"
        return _fail(f"this is a bug in vrtg ({text}): set VRTG_DEBUG=1 to see where, and report it", failures.FAILURE)


def _usage(error: CycloptsError) -> str:
    chain = " ".join(getattr(error, "command_chain", None) or ())
    text = " ".join(str(error).split()).partition(" Available commands:")[0].rstrip(".")  # the list ends after eight
    return f"{text}: see `{' '.join(filter(None, ('vrtg', chain)))} --help`"


def _fail(message: str, code: int) -> int:
    from vrtg.terminal import clean, paint

    print(f"{paint('error:', 'red', sys.stderr)} {clean(message)}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main())
