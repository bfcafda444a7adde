"""Programs that define flags, run in one test process: their flags have the same names."""

import importlib
import sys
from types import ModuleType

from absl import flags

FLAGS_OF: dict[str, list[flags.Flag]] = {}  # name of a loaded program -> its flags


def load_program(name: str) -> ModuleType:
    """A module, whose flags are removed again."""
    module = importlib.import_module(name)
    if name not in FLAGS_OF:
        FLAGS_OF[name] = list(flags.FLAGS.flags_by_module_dict().get(name, []))
        remove(name)
    return module


def load_benchmark(name: str) -> ModuleType:
    """A module of benchmarks/, as load_program."""
    return load_program(f'benchmarks.{name}')


def run_program(name: str, *arguments: object) -> None:
    """Calls a loaded program's main with arguments of its command line."""
    for flag in FLAGS_OF[name]:
        flags.FLAGS[flag.name] = flag
        flag.unparse()
    try:
        sys.modules[name].main(flags.FLAGS([name, *map(str, arguments)]))
    finally:
        remove(name)


def remove(name: str) -> None:
    """Removes the flags of a program from those that are known."""
    flags.FLAGS.remove_flag_values([flag.name for flag in FLAGS_OF[name]])
