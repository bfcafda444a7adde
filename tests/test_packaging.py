"""pyproject.toml: ranges against pinned requirements, warning filters; links of the Markdown pages."""

import re
import tomllib
import warnings
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / 'pyproject.toml').read_text())['project']
FILES = sorted(path.name for path in ROOT.glob('requirements*.txt'))
LOCK = ROOT / 'requirements.lock'
REMEDY = f'write it anew: {LOCK.read_text().splitlines()[1].strip("# ")}'
PAGES = sorted(
    str(path.relative_to(ROOT)) for path in [*ROOT.glob('*.md'), *ROOT.glob('docs/**/*.md')]
)


class Key(NamedTuple):
    """What a pin and its range have in common."""

    name: str
    extras: frozenset[str]
    marker: str  # the versions of Python that it is for; '' for all


def key(requirement: Requirement) -> Key:
    return Key(
        canonicalize_name(requirement.name),
        frozenset(requirement.extras),
        str(requirement.marker or ''),
    )


def read_requirements(name: str) -> tuple[dict, set[str]]:
    """Requirements of a file, by key, and the names of the files that it includes."""
    lines = [line.split(' #')[0].strip() for line in (ROOT / name).read_text().splitlines()]
    lines = [line for line in lines if line and not line.startswith('#')]
    included = {line.removeprefix('-r ') for line in lines if line.startswith('-r ')}
    requirements = [Requirement(line) for line in lines if not line.startswith('-r ')]
    return {key(r): r for r in requirements}, included


def read_project(extra: str | None) -> tuple[dict, set[str]]:
    """Requirements of an extra (None: of the project), and the other extras that it includes."""
    listed = PROJECT['dependencies'] if extra is None else PROJECT['optional-dependencies'][extra]
    requirements = {key(r): r for r in map(Requirement, listed)}
    included: set[str] = set()
    for which in list(requirements):
        if which.name == PROJECT['name']:
            included |= which.extras
            del requirements[which]
    return requirements, included


def file_of(extra: str) -> str:
    return f'requirements-{extra}.txt'


def test_each_extra_has_a_requirements_file():
    extras = PROJECT['optional-dependencies']
    assert sorted([*map(file_of, extras), 'requirements.txt']) == FILES


@pytest.mark.parametrize('name', FILES)
def test_pins_lie_in_the_ranges_of_pyproject(name):
    pins, included_files = read_requirements(name)
    extra = name.removeprefix('requirements').removesuffix('.txt').removeprefix('-') or None
    ranges, included_extras = read_project(extra)
    assert set(pins) == set(ranges)
    if extra is None:  # `make train` needs the quickstart's data; an installed package does not
        included_extras = included_extras | {'quickstart'}
    assert included_files - {'requirements.txt'} == set(map(file_of, included_extras))
    for which, pin in pins.items():
        (specifier,) = pin.specifier
        assert specifier.operator == '==', f'{name} must pin {pin} to one version'
        assert specifier.version in ranges[which].specifier, f'{pin} of {name}: {ranges[which]}'


def test_pins_of_one_library_agree():
    versions: dict[tuple[str, str], set[str]] = {}
    for name in FILES:
        for which, pin in read_requirements(name)[0].items():
            versions.setdefault((which.name, which.marker), set()).add(str(pin.specifier))
    assert {library: v for library, v in versions.items() if len(v) > 1} == {}


@pytest.mark.parametrize('python', ['3.11', '3.12', '3.13'])
@pytest.mark.parametrize('name', FILES)
def test_each_python_gets_one_version_of_a_library(name, python):
    chosen = [
        (which.name, which.extras)
        for which, pin in read_requirements(name)[0].items()
        if pin.marker is None or pin.marker.evaluate({'python_version': python})
    ]
    every = {(which.name, which.extras) for which in read_requirements(name)[0]}
    assert sorted(chosen, key=str) == sorted(every, key=str)
    assert python in SpecifierSet(PROJECT['requires-python'])


def test_the_lock_file_has_the_pins_with_checksums():
    entries = [
        entry.split(' \\\n')
        for entry in re.findall(r'^[a-z].*(?:\n    .*)*', LOCK.read_text(), flags=re.MULTILINE)
    ]
    locked = {first.split(' ;')[0] for first, *_ in entries}
    for name in ('requirements.txt', 'requirements-quickstart.txt'):
        for which, pin in read_requirements(name)[0].items():
            assert f'{which.name}{pin.specifier}' in locked, f'{pin}: {REMEDY}'
    for first, *hashes in entries:
        assert hashes, first
        assert all(re.fullmatch(r' +--hash=sha256:[0-9a-f]{64}', line) for line in hashes), first


def test_pre_commit_runs_the_pinned_ruff():
    pin = read_requirements('requirements-dev.txt')[0][key(Requirement('ruff'))]
    assert (
        f'rev: {str(pin.specifier).replace("==", "v")}\n'
        in (ROOT / '.pre-commit-config.yaml').read_text()
    )


def test_beams_image_has_the_pinned_beam():
    pin = read_requirements('requirements-data.txt')[0][key(Requirement('apache-beam'))]
    launcher, ours = re.findall(
        r'^FROM (\S+:\S+) ', (ROOT / 'Dockerfile').read_text(), re.MULTILINE
    )
    python = ours.removeprefix('python:').rsplit('.', 1)[0]
    version = str(pin.specifier).removeprefix('==')
    assert launcher == f'apache/beam_python{python}_sdk:{version}'


def warn_from(module: str) -> None:
    warnings.warn_explicit('old', DeprecationWarning, f'{module}.py', 1, module=module)


@pytest.mark.parametrize(
    'module',
    ['pgs.step', 'input_pipeline', 'configs.base', 'benchmarks.step', 'test_step', 'conftest'],
)
def test_a_deprecated_call_in_our_code_fails(module):
    with pytest.raises(DeprecationWarning, match='old'):
        warn_from(module)


@pytest.mark.parametrize('module', ['jax.core', 'pgs_other', 'optax._src.base'])
def test_a_deprecated_call_in_a_library_is_only_shown(module):
    with warnings.catch_warnings(record=True) as shown:
        warn_from(module)
    assert len(shown) == 1


def prose(page: Path) -> str:
    """A Markdown page without its code."""
    text = re.sub(r'^ *```.*?^ *```', '', page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return re.sub(r'`[^`\n]*`', '``', text)


def anchors(page: Path) -> set[str]:
    """Anchors of a page's headings, formed as GitHub forms them."""
    text = re.sub(r'^ *```.*?^ *```', '', page.read_text(), flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r'^#+ +(.+?) *$', text, flags=re.MULTILINE)
    return {re.sub(r'[^\w\- ]', '', h.lower()).replace(' ', '-') for h in headings}


@pytest.mark.parametrize('name', PAGES)
def test_relative_links_point_to_files_and_headings(name):
    page = ROOT / name
    links = re.findall(r'\]\(([^()\s]+)(?: [^()]*)?\)|(?:src|href)="([^"]+)"', prose(page))
    for link in (markdown or html for markdown, html in links):
        if re.match(r'[a-z]+:', link):  # https:, mailto:
            continue
        path, _, anchor = link.partition('#')
        target = page.parent / path if path else page
        assert target.exists(), f'{name} links to {link}: no such file'
        if anchor:
            assert anchor in anchors(target), f'{name} links to {link}: no such heading'
