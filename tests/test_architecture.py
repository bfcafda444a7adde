"""The floors of docs/architecture.md: no module imports one above it, and there are no circles."""

import ast
from pathlib import Path

from input_pipeline.embedded import PACKAGES

ROOT = Path(__file__).parents[1]
# From the ground up; rooms of one line may not import each other.
FLOORS = (
    ('pgs.errors', 'pgs.layout'),
    ('pgs.utils',),
    ('input_pipeline',),
    ('pgs.sharding', 'pgs.masking'),
    ('pgs.loss', 'pgs.depth'),
    ('pgs.models', 'pgs.microbatches', 'pgs.optimizer'),
    ('pgs.config_table',),
    ('pgs.step',),
    ('pgs.build', 'pgs.convert', 'pgs.config_page'),
    ('pgs.inference', 'pgs.compile'),
    ('pgs.evaluate', 'pgs.embed', 'pgs.classify'),
    ('pgs.run',),
    ('pgs.train', 'pgs.checkpoint', 'pgs.visualize', 'pgs.report'),
    ('main', 'pgs.reproduce'),
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}


def modules() -> dict[str, Path]:
    """Dotted name -> file, of all program files."""
    files = [
        ROOT / 'main.py',
        *(p for d in ('pgs', 'input_pipeline') for p in (ROOT / d).rglob('*.py')),
    ]
    names = {}
    for file in files:
        parts = list(file.relative_to(ROOT).with_suffix('').parts)
        names['.'.join(parts[:-1] if parts[-1] == '__init__' else parts)] = file
    return names


def room_of(module: str) -> str | None:
    """The longest known room that a module belongs to."""
    fitting = [room for room in FLOOR_OF if module == room or module.startswith(f'{room}.')]
    return max(fitting, key=len, default=None)


def imports_of(file: Path, known: set[str]) -> set[str]:
    """The program's modules that a file imports, anywhere in it."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f'{node.module}.{alias.name}'
                found.add(full if full in known else node.module)
    return {name for name in found if name.split('.')[0] in ('pgs', 'input_pipeline', 'main')}


def test_every_module_has_a_room():
    without = [name for name in modules() if name != 'pgs' and room_of(name) is None]
    assert not without, f'docs/architecture.md gives them no place: {without}'


def test_no_module_imports_one_above_it():
    known = set(modules())
    upward = []
    for name, file in modules().items():
        own = room_of(name)
        for imported in imports_of(file, known):
            other = room_of(imported)
            if own and other and other != own and FLOOR_OF[other] >= FLOOR_OF[own]:
                upward.append(f'{name} imports {imported}')
    assert not upward, upward


def test_there_are_no_circles():
    known = set(modules())
    graph = {name: imports_of(file, known) - {name} for name, file in modules().items()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, ' -> '.join((*path[path.index(name) :], name))
        if name not in done:
            for imported in graph.get(name, ()):
                visit(imported, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_the_quickstarts_packages_are_imported_in_functions_only():
    """A run on own data works without them."""
    for name, file in modules().items():
        for node in ast.parse(file.read_text()).body:
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or '']
            assert not {n.split('.')[0] for n in names} & set(PACKAGES), name
