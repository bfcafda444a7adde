"""Conversion of weights without PyTorch: round trips, detected kinds and rejected input."""

import json
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import preloaded
import pytest
from safetensors.numpy import load_file, save_file
from small_clip import CONFIG, batch, same_trees, small_checkpoint

from pgs.convert import check_tokenizer, hugging_face, load_model, open_clip_config
from pgs.convert import export as exports
from pgs.convert.export import export
from pgs.convert.load import read
from pgs.convert.open_clip import from_params, load_open_clip
from pgs.convert.open_clip_config import infer_architecture, model_card
from pgs.convert.parameters import layout_of
from pgs.convert.positions import resize_positions
from pgs.errors import UserError
from pgs.models.transformer import quick_gelu
from pgs.run import checkpoint
from pgs.step import TrainState
from pgs.utils.files import write_json

ROOT = Path(__file__).parents[2]
DATA = ROOT / 'tests' / 'data'
KINDS = ('orbax', 'open_clip', 'hf')
WEIGHTS = {'open_clip': 'open_clip_model.safetensors', 'hf': 'model.safetensors'}
CONFIGS = {'open_clip': 'open_clip_config.json', 'hf': 'config.json'}


@pytest.fixture(scope='module')
def small():
    return small_checkpoint()


@pytest.fixture(scope='module')
def folders(small, tmp_path_factory):
    """The small model in each layout."""
    root = tmp_path_factory.mktemp('layouts')
    for kind in KINDS:
        export(small, kind, root / kind)
    return root


def changed_copy(folder, target, kind, weights=None, config=None):
    """A copy of an exported folder with a function applied to its weights and to its config."""
    shutil.copytree(folder / kind, target)
    if weights:
        tensors = load_file(target / WEIGHTS[kind])
        weights(tensors)
        save_file(tensors, target / WEIGHTS[kind])
    if config:
        content = json.loads((target / CONFIGS[kind]).read_text())
        config(content)
        (target / CONFIGS[kind]).write_text(json.dumps(content))
    return target


@pytest.mark.parametrize('quick', [False, True])
def test_round_trip_through_all_layouts_is_equal_to_the_bit(quick, tmp_path):
    source = loaded = small_checkpoint(quick_gelu=quick)
    for number, kind in enumerate(('orbax', 'hf', 'open_clip', 'orbax', 'open_clip', 'hf')):
        export(loaded, kind, tmp_path / str(number))
        loaded = read(tmp_path / str(number))
        same_trees(loaded.params, source.params)
        assert loaded.config == source.config
    first, last = (load_file(tmp_path / n / 'model.safetensors') for n in '15')
    assert first.keys() == last.keys()


def test_a_workdir_gives_its_newest_parameters(small, tmp_path, monkeypatch):
    params = jax.tree.map(jnp.asarray, small.params)
    state = TrainState(jnp.zeros((), jnp.int32), params, optax.adamw(1e-3).init(params))
    with checkpoint.open_manager(tmp_path / 'checkpoints', keep=2) as manager:
        checkpoint.save(manager, 3, state.replace(params=jax.tree.map(jnp.zeros_like, params)))
        checkpoint.save(manager, 12, state)
    with pytest.raises(UserError, match='of no kind that can be read'):
        load_model(tmp_path)
    model = {
        k: v for k, v in CONFIG.items() if k != 'quick_gelu'
    }  # as in runs before the setting existed
    write_json(checkpoint.absolute(tmp_path) / 'config.json', {'seed': 0, 'model': model})
    loaded = load_model(tmp_path)
    same_trees(loaded.params, params)
    assert loaded.source == f'{tmp_path}, step 12'
    monkeypatch.chdir(tmp_path.parent)  # messages repeat the path as it was given
    assert load_model(tmp_path.name).source == f'{tmp_path.name}, step 12'
    assert loaded.config == small.config

    other = model | {'embed_dim': 20}
    write_json(checkpoint.absolute(tmp_path) / 'config.json', {'model': other})
    with pytest.raises(UserError, match=r'step 12: image_tower/projection has shape \(64, 24\)'):
        load_model(tmp_path)


def test_a_workdir_without_a_checkpoint_is_named(tmp_path):
    (tmp_path / 'checkpoints').mkdir()
    write_json(checkpoint.absolute(tmp_path) / 'config.json', {'model': CONFIG})
    with pytest.raises(UserError, match='no checkpoint yet'):
        load_model(tmp_path)


def test_a_file_of_open_clip_with_its_json_beside_it():
    loaded = load_model(DATA / 'open_clip_small.safetensors')
    model, params = load_open_clip(
        DATA / 'open_clip_small.safetensors', DATA / 'open_clip_small.json'
    )
    same_trees(loaded.params, params)
    assert loaded.model == model
    assert loaded.config['image']['heads'] == 2
    with pytest.raises(UserError, match='vocabulary of 512 tokens'):
        check_tokenizer(loaded.config)
    check_tokenizer({'text': {'vocab_size': 49408}})


def test_a_file_of_ours_without_a_json_holds_its_own_architecture(small, folders, tmp_path):
    path = shutil.copy(folders / 'open_clip' / WEIGHTS['open_clip'], tmp_path / 'x.safetensors')
    assert load_model(path).config == small.config


def test_a_file_of_others_without_a_json_gets_its_architecture_from_shapes(tmp_path, capsys):
    architecture = CONFIG | {'image': CONFIG['image'] | {'heads': 1}}
    architecture['text'] = CONFIG['text'] | {'width': 64, 'heads': 1}
    shapes = layout_of(architecture, from_params)
    save_file(
        {n: np.zeros(s.shape, np.float16) for n, s in shapes.items()}, tmp_path / 'x.safetensors'
    )
    loaded = load_model(tmp_path / 'x.safetensors')
    assert loaded.config == architecture
    assert {p.dtype.name for p in jax.tree.leaves(loaded.params)} == {'float32'}
    assert '1 and 1 heads and the exact GELU are assumed' in capsys.readouterr().err
    card = model_card(architecture)['model_cfg'] | {'quick_gelu': True}
    (tmp_path / 'other.json').write_text(json.dumps(card))
    given = load_model(tmp_path / 'x.safetensors', model_config=tmp_path / 'other.json')
    assert given.config == architecture | {'quick_gelu': True}


PUBLISHED = {
    'ViT-B-32': (512, 224, 32, 768, 12, 12, 4.0, 512, 8, 12),
    'ViT-B-16': (512, 224, 16, 768, 12, 12, 4.0, 512, 8, 12),
    'ViT-L-14-336': (768, 336, 14, 1024, 24, 16, 4.0, 768, 12, 12),
    'ViT-H-14': (1024, 224, 14, 1280, 32, 16, 4.0, 1024, 16, 24),
    'ViT-g-14': (1024, 224, 14, 1408, 40, 16, 4.3637, 1024, 16, 24),
    'ViT-bigG-14': (1280, 224, 14, 1664, 48, 16, 4.9231, 1280, 20, 32),
}


@pytest.mark.parametrize('name', PUBLISHED)
def test_published_architectures_are_inferred_from_their_shapes(name):
    embed, size, patch, width, layers, heads, ratio, text_width, text_heads, text_layers = (
        PUBLISHED[name]
    )
    architecture = {
        'embed_dim': embed,
        'image': {
            'image_size': size,
            'patch_size': patch,
            'width': width,
            'layers': layers,
            'heads': heads,
            'mlp_ratio': ratio,
        },
        'text': {
            'context_length': 77,
            'vocab_size': 49408,
            'width': text_width,
            'layers': text_layers,
            'heads': text_heads,
            'mlp_ratio': 4.0,
        },
        'remat': 'none',
        'quick_gelu': False,
    }
    shapes = {n: s.shape for n, s in layout_of(architecture, from_params).items()}
    inferred = infer_architecture(shapes, name)
    inferred_ratio = inferred['image'].pop('mlp_ratio')
    assert int(width * inferred_ratio) == int(width * architecture['image'].pop('mlp_ratio'))
    assert inferred == architecture


def test_shapes_of_other_models_are_refused():
    with pytest.raises(UserError, match=r"lacks 'visual\.positional_embedding'"):
        infer_architecture({'visual.conv1.weight': (32, 3, 3, 3)}, 'a ResNet')
    shapes = {n: s.shape for n, s in layout_of(CONFIG, from_params).items()}
    with pytest.raises(UserError, match='--model_config'):
        infer_architecture(shapes, 'narrow')


def drop(name):
    return lambda tensors: tensors.pop(name)


def put(name, value):
    return lambda tensors: tensors.update({name: value})


@pytest.mark.parametrize(
    ('kind', 'change', 'words'),
    [
        ('open_clip', drop('ln_final.bias'), r"lacks 'ln_final\.bias'"),
        ('open_clip', put('visual.x', np.zeros(2)), r"holds 'visual\.x', which"),
        ('open_clip', put('ln_final.bias', np.zeros(3)), r'ln_final\.bias has shape \(3,\), \(32,\)'),
        ('open_clip', put('ln_final.bias', np.full(32, np.nan)), r'ln_final\.bias is not finite'),
        ('hf', drop('vision_model.pre_layrnorm.bias'), r"lacks 'vision_model\.pre_layrnorm\.bias'"),
        ('hf', put('text_model.x', np.zeros(2)), r"holds 'text_model\.x', which"),
        ('hf', put('visual_projection.weight', np.zeros((64, 24))), r'visual_projection\.weight has'),
        ('hf', put('logit_scale', np.array(np.inf)), 'logit_scale is not finite'),
    ],
)  # fmt: skip
def test_a_tensor_that_does_not_fit_is_named(folders, tmp_path, kind, change, words):
    copy = changed_copy(folders, tmp_path / 'copy', kind, weights=change)
    with pytest.raises(UserError, match=words):
        load_model(copy)


def test_position_ids_of_older_files_are_left_out(small, folders, tmp_path):
    change = put('text_model.embeddings.position_ids', np.arange(12)[None])
    copy = changed_copy(folders, tmp_path / 'copy', 'hf', weights=change)
    same_trees(read(copy).params, small.params)


@pytest.mark.parametrize(
    ('part', 'key', 'value', 'words'),
    [
        ('text_cfg', 'hf_tokenizer_name', 'bert-base-uncased', 'hf_tokenizer_name'),
        ('text_cfg', 'pool_type', 'last', "'pool_type' \\('last'\\)"),
        ('text_cfg', 'no_causal_mask', True, 'no_causal_mask'),
        ('vision_cfg', 'layers', [3, 4, 6, 3], 'layers='),
        ('vision_cfg', 'timm_model_name', 'vit_base', 'timm_model_name'),
        ('vision_cfg', 'mlp_ratio', 'wide', 'mlp_ratio'),
        ('preprocess_cfg', 'mean', [0.5, 0.5, 0.5], r'preprocess_cfg\.mean'),
    ],
)
def test_an_unsupported_setting_of_open_clip_is_named(part, key, value, words):
    card = model_card(CONFIG)
    (card if part == 'preprocess_cfg' else card['model_cfg'])[part][key] = value
    with pytest.raises(UserError, match=words):
        open_clip_config.architecture_of(card)


def test_settings_of_open_clip_that_are_off_do_not_matter():
    card = model_card(CONFIG)
    card['model_cfg']['vision_cfg'] |= {
        'patch_dropout': 0.5,
        'ls_init_value': None,
        'pool_type': 'tok',
    }
    card['model_cfg']['text_cfg'] |= {'hf_tokenizer_name': '', 'no_causal_mask': False, 'eos_id': 2}
    card['model_cfg']['vision_cfg']['image_size'] = [32, 32]
    assert open_clip_config.architecture_of(card) == CONFIG
    del card['model_cfg']['embed_dim']
    with pytest.raises(UserError, match="lacks 'embed_dim'"):
        open_clip_config.architecture_of(card)


@pytest.mark.parametrize(
    ('part', 'key', 'value', 'words'),
    [
        (None, 'model_type', 'siglip', "model_type 'siglip'"),
        ('text_config', 'hidden_act', 'quick_gelu', 'hidden_act'),
        ('text_config', 'eos_token_id', 7, 'eos_token_id=7'),
        ('vision_config', 'layer_norm_eps', 1e-6, 'layer_norm_eps of vision_config'),
        ('vision_config', 'num_channels', 1, 'num_channels'),
        ('vision_config', 'patch_size', 'x', "patch_size='x'"),
    ],
)
def test_an_unsupported_setting_of_hugging_face_is_named(part, key, value, words):
    config = json.loads(json.dumps(hugging_face.configs(CONFIG)['config.json']))
    (config[part] if part else config)[key] = value
    with pytest.raises(UserError, match=words):
        hugging_face.architecture_of(config)


def test_defaults_fill_a_short_config_of_hugging_face():
    """transformers omits its defaults, and older files repeat a part."""
    short = {'model_type': 'clip', 'vision_config': {}, 'text_config': {'eos_token_id': 2}}
    short['vision_config_dict'] = {'patch_size': 16}
    architecture = hugging_face.architecture_of(short)
    assert architecture['quick_gelu'] is True
    assert architecture['image']['patch_size'] == 16
    assert (architecture['embed_dim'], architecture['text']['heads']) == (512, 8)


def test_pixels_of_another_kind_are_refused(folders, tmp_path):
    copy = changed_copy(folders, tmp_path / 'copy', 'hf')
    path = copy / 'preprocessor_config.json'
    path.write_text(json.dumps(json.loads(path.read_text()) | {'image_std': [0.5, 0.5, 0.5]}))
    with pytest.raises(UserError, match='image_std'):
        load_model(copy)


def test_positions_are_resampled_as_open_clip_does(folders, small):
    figures = np.load(DATA / 'open_clip_positions.npz')
    source = figures['source_7']
    for grid in (4, 6, 9, 14, 16):
        resized = resize_positions(source, grid)
        np.testing.assert_array_equal(resized[0], source[0])
        np.testing.assert_allclose(resized, figures[f'grid_{grid}'], atol=1e-5)
    assert resize_positions(source, 7) is source
    loaded = load_model(folders / 'orbax', image_size=48)
    assert loaded.model.image.image_size == 48
    positions = loaded.params['image_tower'].pop('positions')
    assert positions.shape == (37, 64)
    rest = {k: v for k, v in small.params['image_tower'].items() if k != 'positions'}
    same_trees(loaded.params, small.params | {'image_tower': rest})
    with pytest.raises(UserError, match='take 48 or 56'):
        load_model(folders / 'orbax', image_size=50)


def test_quick_gelu():
    x = np.linspace(-6, 6, 101).astype(np.float32)
    np.testing.assert_allclose(quick_gelu(x), x / (1 + np.exp(-1.702 * x)), atol=1e-6)
    images, tokens = batch()
    features = []
    for checkpoint_ in (small_checkpoint(), small_checkpoint(quick_gelu=True)):
        out = checkpoint_.model.apply({'params': checkpoint_.params}, images, tokens)
        features.append(out)
    for name in ('image_features', 'text_features'):
        assert np.abs(features[0][name] - features[1][name]).max() > 1e-4


@pytest.mark.parametrize('name', ['absent', 'notes.txt', 'folder', 'other'])
def test_the_error_for_another_path_lists_what_is_accepted(tmp_path, name):
    (tmp_path / 'notes.txt').write_text('x')
    (tmp_path / 'folder').mkdir()
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'config.json').write_text('{}')
    with pytest.raises(UserError, match=rf'{name}.*give a workdir of main\.py'):
        load_model(tmp_path / name)


def test_only_orbax_reads_from_other_file_systems():
    with pytest.raises(UserError, match='copy it'):
        read('gs://bucket/model.safetensors', kind='open_clip')


def test_files_of_pytorch_without_pytorch(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'torch', None)
    (tmp_path / 'x.pt').write_bytes(b'')
    with pytest.raises(UserError, match=r'requirements-torch\.txt'):
        load_model(tmp_path / 'x.pt')
    with zipfile.ZipFile(tmp_path / 'script.pt', 'w') as archive:
        archive.writestr('ViT/constants.pkl', b'')
    with pytest.raises(UserError, match='TorchScript'):
        load_model(tmp_path / 'script.pt')


def test_an_output_folder_is_written_completely_or_not_at_all(small, tmp_path, monkeypatch):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full' / 'mine.txt').write_text('x')
    with pytest.raises(UserError, match='holds files already'):
        export(small, 'hf', tmp_path / 'full')
    with pytest.raises(UserError, match='is a file'):
        export(small, 'hf', tmp_path / 'full' / 'mine.txt')

    def half(folder, loaded):
        (folder / 'config.json').write_text('{')
        raise OSError(28, 'No space left on device')

    (tmp_path / 'empty').mkdir()
    monkeypatch.setitem(exports.WRITERS, 'hf', half)
    with pytest.raises(UserError, match='No space left'):
        export(small, 'hf', tmp_path / 'empty')
    assert [p.name for p in tmp_path.iterdir() if p.name != 'full'] == ['empty']
    assert not any((tmp_path / 'empty').iterdir())
    assert export(small, 'open_clip', tmp_path / 'empty') == [
        'README.md',
        CONFIGS['open_clip'],
        WEIGHTS['open_clip'],
    ]


def test_the_command(folders, tmp_path):
    def run(*flags):
        command = [*preloaded.python(), '-m', 'pgs.convert', *map(str, flags)]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = run(
        f'--checkpoint={folders / "hf"}',
        '--to=open_clip',
        f'--out={tmp_path / "out"}',
        '--from=hf',
        '--image_size=64',
    )
    assert done.returncode == 0, done.stderr
    assert '0.2 M parameters (image 64 px / 8, width 64' in done.stdout
    assert load_model(tmp_path / 'out').config['image']['image_size'] == 64
    done = run(f'--checkpoint={folders / "none"}', '--to=hf', f'--out={tmp_path / "b"}')
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith('error: ')
    assert not (tmp_path / 'b').exists()
