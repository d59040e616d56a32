"""Body of the command `main`: trains what a config describes."""

from pathlib import Path

from vit_jax_tricks.commands.options import Pairs
from vit_jax_tricks.stop import Stop, Stopped


def run(*, config: str, keys: Pairs, workdir: Path | None, stop: Stop) -> None:
    """Trains or resumes.

    Args:
      config: a config file with arguments, as `config.load` takes it.
      keys: keys of the config and their values, as typed.
      workdir: the folder of the run; None means runs/NAME.
      stop: asks for an early end.

    Raises:
      UserError: as `config.load` and `loop.run`.
    """
    try:  # imports take a while, and may be stopped too
        from vit_jax_tricks import config as configs
        from vit_jax_tricks import paths
        from vit_jax_tricks.console import muted
        from vit_jax_tricks.train import loop

        loaded = configs.load(config, keys)
        with muted():
            folder = workdir or paths.absolute(f"runs/{loaded.name}")
            loop.run(loaded, folder, stop)
    except Stopped:
        if not stop.saved:
            print("stopped before the first step; there was nothing to save")
        raise
