"""Trains, resumes and evaluates: `python -m vit_jax_tricks.main --config=FILE[:args]`.

Without --config it runs configs/digits.py; without --workdir it uses runs/NAME. Any key
of the config can be set with --config.KEY=VALUE. The same command resumes a run.

Examples:
  python -m vit_jax_tricks.main
  python -m vit_jax_tricks.main --config=configs/deit_s.py:epochs=5 --workdir=runs/deit
  python -m vit_jax_tricks.main --config.optimizer.name=lamb --config.schedule.lr=5e-3

Exit status: 0 finished, 1 an error, 143, 129 or 130 stopped early by SIGTERM, SIGHUP or
Ctrl-C, and saved.
"""

import dataclasses
from pathlib import Path

from vit_jax_tricks.commands import command, options
from vit_jax_tricks.stop import Stop, leave


@dataclasses.dataclass(frozen=True)
class Options:
    """Options."""

    config: str = options.text(
        "a config file, with arguments: configs/deit_s.py:epochs=5; the file is "
        "executed as a program",
        "FILE[:args]",
        "configs/digits.py",
    )
    keys: options.Pairs = options.section(
        "set one value, such as --config.optimizer.weight_decay=0.1", "config"
    )
    workdir: Path | None = options.path(
        "folder for checkpoints, metrics and report", "DIR", shown="runs/NAME"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command and returns its exit status; errors are one line."""
    return command.run(Options, _train, argv, __doc__)


def _train(options: Options, stop: Stop) -> None:
    from vit_jax_tricks.commands import train

    train.run(**vars(options), stop=stop)


if __name__ == "__main__":
    leave(main())
