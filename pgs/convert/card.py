"""The model card of exported weights: README.md, as the Hugging Face Hub reads it."""

import os
import re
from pathlib import Path
from typing import Any, NamedTuple

from etils import epath

from pgs.config_table import is_number, shown
from pgs.convert.load import Checkpoint
from pgs.convert.parameters import count, fingerprint
from pgs.errors import UserError
from pgs.masking.strategies import SELECTOR, all_options_of, known_strategies
from pgs.utils.files import absolute, read_json

LIBRARIES = {'open_clip': 'open_clip', 'hf': 'transformers'}  # kind of export -> the Hub's name
LICENSE = re.compile(r'[a-z0-9][a-z0-9.-]*')
PAPER = (
    'Pei et al., Seeing What Matters: Empowering CLIP with Patch Generation-to-Selection, '
    'CVPR 2025 ([arXiv 2503.17080](https://arxiv.org/abs/2503.17080))'
)
USE = {
    'open_clip': """```python
import open_clip

model, _, preprocess = open_clip.create_model_and_transforms('hf-hub:OWNER/NAME')
tokenizer = open_clip.get_tokenizer('hf-hub:OWNER/NAME')  # or local-dir:FOLDER in both lines
```""",
    'hf': """```python
from transformers import CLIPImageProcessor, CLIPModel, CLIPTokenizer

model = CLIPModel.from_pretrained('OWNER/NAME')  # or a folder
images = CLIPImageProcessor.from_pretrained('OWNER/NAME')
tokenizer = CLIPTokenizer.from_pretrained('openai/clip-vit-base-patch16')  # of any CLIP
length = model.config.text_config.max_position_embeddings  # of the texts, for max_length
```""",
}
Row = tuple[str, str]


class Facts(NamedTuple):
    """What a card says besides the architecture.

    Attributes:
      license: identifier of the Hub; '' if none was given.
      run: config.json of the run; {} of other weights.
      step: of the checkpoint.
      pairs: number of training pairs; None if the run did not record it.
      held_out: results.json of the run; {} if there are none of these weights.
      tasks: task -> its entry in the results file of pgs.evaluate.
    """

    license: str = ''
    run: dict[str, Any] = {}
    step: int = 0
    pairs: int | None = None
    held_out: dict[str, Any] = {}
    tasks: dict[str, Any] = {}


def read_facts(
    checkpoint: str | os.PathLike, loaded: Checkpoint, results: str | None, license_id: str
) -> Facts:
    """What a run's folder, a results file and the user say about weights.

    Args:
      checkpoint: path of the weights; the folder of a run has facts.
      loaded: the weights.
      results: path of a results file of pgs.evaluate; None: none.
      license_id: '' or an identifier, such as 'apache-2.0'.

    Raises:
      UserError: an impossible identifier, or results that cannot be read or are of other weights.
    """
    if license_id and not LICENSE.fullmatch(license_id):
        raise UserError(
            f'--license={shown(license_id)} is no identifier of a licence: give one of '
            "https://huggingface.co/docs/hub/repositories-licenses, such as apache-2.0, or 'other'"
        )
    facts = Facts(license=license_id, tasks=read_tasks(results, loaded) if results else {})
    folder = absolute(checkpoint)
    if not (folder / 'checkpoints').is_dir():
        return facts
    run, held_out = optional_json(folder / 'config.json'), optional_json(folder / 'results.json')
    if not all(isinstance(run.get(part), dict) for part in ('data', 'masking', 'optimizer')):
        return facts  # of another program
    step = int(loaded.source.rpartition('step ')[2])  # 'runs/a, step 250'
    return facts._replace(
        run=run,
        step=step,
        pairs=recorded_pairs(optional_json(folder / 'environment.json')),
        held_out=held_out if held_out.get('step') == step else {},
    )


def recorded_pairs(environment: dict[str, Any]) -> int | None:
    """The training pairs in the last start of an environment.json; None if it is damaged."""
    try:
        return sum(int(part['pairs']) for part in environment['starts'][-1]['data'])
    except (KeyError, IndexError, TypeError, ValueError):
        return None


def read_tasks(path: str, loaded: Checkpoint) -> dict[str, Any]:
    """The tasks in a results file of pgs.evaluate, which must be of these weights."""
    try:
        content = read_json(Path(path).expanduser())
        tasks, weights = dict(content['tasks']), content['weights']
        shares = [share for entry in tasks.values() for share in entry['metrics'].values()]
        if not all(map(is_number, shares)):
            raise TypeError('a metric is no number')
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f'cannot read --results={path} ({error!r}): give a results file of pgs.evaluate'
        ) from error
    if weights != fingerprint(loaded.params):
        raise UserError(
            f'--results={path} holds scores of other weights ({content.get("checkpoint")}): score '
            f'these with python -m pgs.evaluate'
        )
    if 'masking' in content:
        raise UserError(f'--results={path} holds scores of masked images: give those of whole ones')
    return tasks


def optional_json(path: epath.Path) -> dict[str, Any]:
    """The object in a JSON file of a run; {} if it is absent or damaged."""
    try:
        content = read_json(path)
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_card(name: str, kind: str, loaded: Checkpoint, facts: Facts) -> str:
    """The content of README.md.

    Args:
      name: of the model, the card's title.
      kind: 'open_clip' or 'hf'.
      loaded: the weights.
      facts: see read_facts.
    """
    head = [
        '---',
        *([f'license: {facts.license}'] if facts.license else []),
        f'library_name: {LIBRARIES[kind]}',
        'pipeline_tag: zero-shot-image-classification',
        'tags:',
        '- clip',
        '- clip-pgs',
        '---',
    ]
    image, text = loaded.config['image'], loaded.config['text']
    what = (
        f'A CLIP of {count(loaded.params) / 1e6:.1f} M parameters: ViT of {image["layers"]} layers, '
        f'width {image["width"]}, {image["image_size"]} px in patches of {image["patch_size"]}; '
        f'text of {text["context_length"]} tokens, {text["layers"]} layers, width {text["width"]}. '
        f'It was exported by clip-pgs, a JAX program for CLIP with masked images: {PAPER}.'
    )
    source = Path(loaded.source).name  # without the folders of the machine
    training = table(training_rows(facts)) if facts.run else f'Converted from `{source}`.'
    scores = score_rows(facts)
    licence = facts.license or (
        'Not stated. The program is licensed under Apache-2.0; that does not cover weights, for which '
        'the terms of the training data count too.'
    )
    sections = [
        '\n'.join(head),
        f'# {name}',
        what,
        f'## Training\n\n{training}',
        *([f'## Scores\n\n{table(scores)}'] if scores else []),
        f'## Use\n\n{USE[kind]}',
        f'## Licence\n\n{licence}',
    ]
    return '\n\n'.join(sections) + '\n'


def table(rows: list[Row]) -> str:
    """A Markdown table of two columns without headings."""
    cells = [[re.sub(r'[|\s]+', ' ', text) for text in row] for row in rows]
    return '\n'.join(
        ['| | |', '| --- | --- |', *(f'| {left} | {right} |' for left, right in cells)]
    )


def training_rows(facts: Facts) -> list[Row]:
    """Data, length, mask and optimiser of a run."""
    run, data, masking = facts.run, facts.run['data'], facts.run['masking']
    optimizer = run['optimizer']
    names = [row[0] for row in data.get('mixture') or []] or [data.get('name', '?')]
    pairs = f', {facts.pairs:,} pairs' if facts.pairs else ''
    strategy = str(masking.get(SELECTOR, '?'))
    function = known_strategies().get(strategy)
    options = [
        f'{option}={masking[option]}'
        for option in (all_options_of(function) if function else ())
        if option in masking
    ]
    return [
        ('data', f'{", ".join(map(str, names))}{pairs}'),
        ('steps', f'{facts.step} of {run.get("total_steps")}, batch {run.get("batch_size")}'),
        ('mask', f'{strategy} {", ".join(options)}'),
        ('masked until', f'{masking.get("until", 1.0)} of the steps'),
        (
            'optimiser',
            f'AdamW, peak rate {optimizer.get("peak_learning_rate")}, weight decay '
            f'{optimizer.get("weight_decay")}, warm-up of {optimizer.get("warmup_steps")} steps',
        ),
        *([('started from', f'`{Path(run["init_from"]).name}`')] if run.get('init_from') else []),
    ]


def score_rows(facts: Facts) -> list[Row]:
    """Scores in percent: the tasks of pgs.evaluate, then the held-out pairs of the run."""
    rows = [
        (f'`{task}`', ', '.join(f'{name} {100 * value:.1f}' for name, value in shares.items()))
        for task, entry in sorted(facts.tasks.items())
        if (shares := {n: v for n, v in entry['metrics'].items() if n != 'weight_decay'})
    ]
    recall = {
        name: value
        for name, value in facts.held_out.items()
        if name.startswith(('text_recall', 'image_recall')) and is_number(value)
    }
    if recall:
        words = ', '.join(f'{name} {100 * value:.1f}' for name, value in recall.items())
        rows.append((f'held-out pairs ({facts.held_out.get("n_eval")})', words))
    return rows
