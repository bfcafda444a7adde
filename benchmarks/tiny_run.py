"""The command of a run of main.py whose steps take milliseconds, for benchmarks.chaos and soak."""

import sys
from pathlib import Path
from typing import Any

TINY = {
    'data.name': 'openmoji',
    'evals': "('held_out',)",
    'model.embed_dim': 16,
    'model.image.image_size': 32,
    'model.image.width': 32,
    'model.image.layers': 1,
    'model.image.heads': 2,
    'model.text.width': 32,
    'model.text.layers': 1,
    'model.text.heads': 2,
}


def tiny_run(workdir: Path, **settings: Any) -> list[str]:
    """The command; settings are further keys of the config, such as total_steps=100."""
    flags = [f'--config.{key}={value}' for key, value in (TINY | settings).items()]
    return [sys.executable, 'main.py', f'--workdir={workdir}', *flags]
