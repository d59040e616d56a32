"""Trains, resumes and evaluates: `python -m vit_jax_tricks.main --config=FILE[:args]`.

Without --config it runs configs/digits.py; without --workdir it uses runs/NAME. Any key
of the config can be set with --config.KEY=VALUE. The same command resumes a run.
"""

from pathlib import Path

from vit_jax_tricks.commands import command
from vit_jax_tricks.stop import Stop, Stopped, leave


USAGE = f"""{(__doc__ or "").strip()}

  --config=FILE[:args]   a config file, with arguments: configs/deit_s.py:epochs=5;
                         the file is executed as a program
  --config.KEY=VALUE     set one value, such as --config.optimizer.weight_decay=0.1
  --workdir=DIR          folder for checkpoints, metrics and report
  --help                 show this text

Exit status: 0 finished, 1 an error, 143, 129 or 130 stopped early by SIGTERM, SIGHUP or
Ctrl-C, and saved.
"""


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(_train, argv, USAGE)


def _train(argv: list[str], stop: Stop) -> None:
    try:
        from vit_jax_tricks import config, console, paths
        from vit_jax_tricks.train import loop

        given = command.parse(argv, values=("config", "workdir"), sections=("config",))
        spec = given.get("config", "configs/digits.py")
        loaded = config.load(spec, given.sections["config"])
        with console.muted():
            workdir = given.get("workdir") or paths.absolute(f"runs/{loaded.name}")
            loop.run(loaded, Path(workdir), stop)
    except Stopped:
        if not stop.saved:
            print("stopped before the first step; there was nothing to save")
        raise


if __name__ == "__main__":
    leave(main())
