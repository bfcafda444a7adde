"""OpenCLIP and transformers load our exports, and files of PyTorch are read.

Needs requirements-torch.txt; without it, these tests are skipped.
"""

import json
import pickle

import jax
import numpy as np
import pytest

torch = pytest.importorskip('torch')
open_clip = pytest.importorskip('open_clip')
transformers = pytest.importorskip('transformers')
huggingface_hub = pytest.importorskip('huggingface_hub')

from small_clip import batch, same_trees, small_checkpoint  # noqa: E402

from pgs.convert import load_model  # noqa: E402
from pgs.convert import open_clip_config as configs  # noqa: E402
from pgs.convert.card import Facts  # noqa: E402
from pgs.convert.export import export  # noqa: E402
from pgs.convert.load import read  # noqa: E402
from pgs.convert.open_clip import from_params  # noqa: E402
from pgs.convert.parameters import layout_of  # noqa: E402
from pgs.errors import UserError  # noqa: E402


@pytest.fixture(scope='module', params=[False, True], ids=['gelu', 'quick_gelu'])
def small(request):
    return small_checkpoint(quick_gelu=request.param)


@pytest.fixture(scope='module')
def own(small):
    """Our features for a batch."""
    images, tokens = batch()
    return jax.jit(small.model.apply)({'params': small.params}, images, tokens)


def nchw_and_tokens():
    images, tokens = batch()
    return torch.tensor(images.transpose(0, 3, 1, 2).copy()), torch.tensor(tokens).long()


def unit(features):
    return (features / features.norm(dim=-1, keepdim=True)).numpy()


def test_open_clip_loads_the_export_and_gives_our_features(small, own, tmp_path):
    export(small, 'open_clip', tmp_path / 'out')
    model, _, preprocess = open_clip.create_model_and_transforms(f'local-dir:{tmp_path / "out"}')
    images, tokens = nchw_and_tokens()
    with torch.no_grad():
        image, text, scale = model.eval()(images, tokens)
    np.testing.assert_allclose(own['image_features'], image.numpy(), atol=1e-5)
    np.testing.assert_allclose(own['text_features'], text.numpy(), atol=1e-5)
    np.testing.assert_allclose(own['logit_scale'], scale.item(), rtol=1e-6)
    assert 'size=(32, 32)' in repr(preprocess)


def test_transformers_loads_the_export_and_gives_our_features(small, own, tmp_path):
    export(small, 'hf', tmp_path / 'out')
    model, report = transformers.CLIPModel.from_pretrained(
        tmp_path / 'out', output_loading_info=True
    )
    assert not any(report[k] for k in ('missing_keys', 'unexpected_keys', 'mismatched_keys'))
    images, tokens = nchw_and_tokens()
    with torch.no_grad():
        out = model.eval()(input_ids=tokens, pixel_values=images)
    np.testing.assert_allclose(own['image_features'], unit(out.image_embeds), atol=1e-5)
    np.testing.assert_allclose(own['text_features'], unit(out.text_embeds), atol=1e-5)
    processor = transformers.CLIPImageProcessor.from_pretrained(tmp_path / 'out')
    pixels = np.random.default_rng(0).integers(0, 256, (40, 36, 3)).astype(np.uint8)
    assert processor(pixels, return_tensors='np')['pixel_values'].shape == (1, 3, 32, 32)


def test_what_transformers_saves_is_read(small, tmp_path):
    export(small, 'hf', tmp_path / 'out')
    transformers.CLIPModel.from_pretrained(tmp_path / 'out').save_pretrained(tmp_path / 'again')
    again = read(tmp_path / 'again')
    same_trees(again.params, small.params)
    assert again.config == small.config


def test_what_transformers_saves_in_several_files_is_read(small, tmp_path):
    export(small, 'hf', tmp_path / 'out')
    model = transformers.CLIPModel.from_pretrained(tmp_path / 'out')
    model.save_pretrained(tmp_path / 'again', max_shard_size='100KB')
    assert len(list((tmp_path / 'again').glob('model-*.safetensors'))) > 2
    same_trees(read(tmp_path / 'again').params, small.params)
    parts = [
        p.tolist() for p in np.array_split(sorted(model.state_dict()), 2)
    ]  # as older versions saved them
    (tmp_path / 'old').mkdir()
    for number, names in enumerate(parts):
        torch.save({n: model.state_dict()[n] for n in names}, tmp_path / 'old' / f'{number}.bin')
    index = {n: f'{number}.bin' for number, names in enumerate(parts) for n in names}
    (tmp_path / 'old' / 'pytorch_model.bin.index.json').write_text(
        json.dumps({'weight_map': index})
    )
    (tmp_path / 'old' / 'config.json').write_text((tmp_path / 'out' / 'config.json').read_text())
    same_trees(read(tmp_path / 'old').params, small.params)


@pytest.mark.parametrize(('kind', 'library'), [('open_clip', 'open_clip'), ('hf', 'transformers')])
def test_the_hub_reads_the_model_card(small, tmp_path, kind, library):
    export(small, kind, tmp_path / 'out', Facts(license='apache-2.0'))
    data = huggingface_hub.ModelCard.load(tmp_path / 'out' / 'README.md').data
    assert (data.license, data.library_name) == ('apache-2.0', library)
    assert data.pipeline_tag == 'zero-shot-image-classification'
    assert data.tags == ['clip', 'clip-pgs']


def state_dict(small, prefix=''):
    weights = from_params(small.params)
    return {
        f'{prefix}{n}': torch.tensor(np.ascontiguousarray(w)).reshape(w.shape)
        for n, w in weights.items()
    }


@pytest.mark.parametrize('suffix', ['.pt', '.pth', '.bin'])
def test_state_dicts_and_training_checkpoints(small, tmp_path, suffix):
    card = tmp_path / 'weights.json'
    card.write_text(json.dumps(configs.model_card(small.config)))
    path = tmp_path / f'weights{suffix}'
    torch.save(state_dict(small), path)
    same_trees(read(path).params, small.params)

    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(2))])
    content = {'epoch': 3, 'name': 'run', 'state_dict': state_dict(small, 'module.')}
    torch.save(content | {'optimizer': optimizer.state_dict()}, path)
    loaded = read(path)
    same_trees(loaded.params, small.params)
    assert loaded.config == small.config


def test_half_precision_becomes_float32(small, tmp_path):
    path = tmp_path / 'half.pt'
    torch.save({n: w.bfloat16() for n, w in state_dict(small).items()}, path)
    (tmp_path / 'half.json').write_text(json.dumps(configs.model_card(small.config)))
    for own, half in zip(
        jax.tree.leaves(small.params), jax.tree.leaves(read(path).params), strict=True
    ):
        assert half.dtype == np.float32
        np.testing.assert_array_equal(half, torch.tensor(own).bfloat16().float().numpy())


class Hostile:
    def __reduce__(self):
        return (print, ('this code must not run',))


def test_pickled_code_is_refused_and_does_not_run(tmp_path, capsys):
    torch.save({'state_dict': Hostile()}, tmp_path / 'new.pt')
    (tmp_path / 'old.pt').write_bytes(pickle.dumps(Hostile()))
    torch.save(torch.nn.Linear(2, 2), tmp_path / 'module.pt')
    for name in ('new.pt', 'old.pt', 'module.pt'):
        with pytest.raises(UserError, match=rf'{name}: it holds pickled code'):
            load_model(tmp_path / name)
    assert 'must not run' not in capsys.readouterr().out
    torch.save({'weight': torch.zeros(2), 'name': 'x'}, tmp_path / 'mixed.pt')
    with pytest.raises(UserError, match="'name' is a str, not a tensor"):
        load_model(tmp_path / 'mixed.pt')
    torch.jit.script(torch.nn.Linear(2, 2)).save(tmp_path / 'script.pt')
    with pytest.raises(UserError, match=r'script\.pt is a TorchScript archive'):
        load_model(tmp_path / 'script.pt')


def plain_vit(card):
    """Whether this project has every setting of a model JSON."""
    try:
        configs.architecture_of(card)
    except UserError:
        return False
    return True


def test_heads_of_open_clips_own_cards_are_inferred_from_shapes():
    cards = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    plain = {name: card for name, card in cards.items() if plain_vit(card)}
    assert {'ViT-B-32', 'ViT-B-16', 'ViT-L-14', 'ViT-H-14', 'ViT-bigG-14'} <= plain.keys()
    differing = []
    for name, card in plain.items():
        architecture = configs.architecture_of(card)
        shapes = {n: s.shape for n, s in layout_of(architecture, from_params).items()}
        inferred = configs.infer_architecture(shapes, name)
        heads = [(d['image']['heads'], d['text']['heads']) for d in (architecture, inferred)]
        if heads[0] != heads[1]:
            differing.append(name)
        assert inferred['image']['image_size'] == architecture['image']['image_size'], name
    assert differing == []
