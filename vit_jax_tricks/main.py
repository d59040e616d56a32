"""Trains, resumes and evaluates: `python -m vit_jax_tricks.main --config=FILE[:args]`.

Without --config it runs configs/digits.py, without --workdir it uses runs/NAME. Any key
of the config can be set with --config.KEY=VALUE. The same command again resumes.
"""

import sys
from pathlib import Path

from vit_jax_tricks.stop import Stop, Stopped


USAGE = f"""{(__doc__ or "").strip()}

  --config=FILE[:args]   a config file, with arguments: configs/deit_s.py:epochs=5
  --config.KEY=VALUE     one value, such as --config.optimizer.weight_decay=0.1
  --workdir=DIR          checkpoints, metrics and report
  --help                 this text
"""


def parse(argv: list[str]) -> tuple[str, str | None, list[tuple[str, str]]]:
    """Splits the command line into (config, workdir, overrides); `--key value` works.

    Raises UserError for anything else.
    """
    from vit_jax_tricks.errors import UserError

    config, workdir, overrides = "configs/digits.py", None, []
    rest = list(argv)
    while rest:
        flag, equals, value = rest.pop(0).partition("=")
        known = flag in ("--config", "--workdir") or flag.startswith("--config.")
        if not known:
            raise UserError(
                f"{flag}: unknown argument; expected --config=FILE, "
                "--config.KEY=VALUE or --workdir=DIR (see --help)."
            )
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise UserError(f"{flag} needs a value: {flag}=...")
            value = rest.pop(0)
        if not value and flag in ("--config", "--workdir"):
            raise UserError(f"{flag} needs a value: {flag}=...")
        if flag == "--config":
            config = value
        elif flag == "--workdir":
            workdir = value
        else:
            overrides.append((flag.removeprefix("--config."), value))
    return config, workdir, overrides


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    argv = sys.argv[1:] if argv is None else argv
    if {"--help", "-h"} & set(argv):
        print(USAGE)
        return 0
    stop = Stop()
    with stop.installed():
        return _run(argv, stop)


def _run(argv: list[str], stop: Stop) -> int:
    try:
        from vit_jax_tricks import config, console, train

        spec, workdir, overrides = parse(argv)
        loaded = config.load(spec, overrides)
        with console.muted():
            train.run(loaded, Path(workdir or f"runs/{loaded.name}"), stop)
    except Stopped as stopped:
        if not stop.saved:
            print("stopped before the first step; there was nothing to save")
        return stopped.code
    except Exception as error:
        from vit_jax_tricks.console import explain, fail

        line = explain(error)
        if line is None:
            raise
        fail(line)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
