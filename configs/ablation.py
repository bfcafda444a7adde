"""The paper's ablations of PGS-0.3, one argument for each row: ViT-B/16, CC12M (arXiv 2503.17080).

Command:  python main.py --config=configs/ablation.py:no_edges
Time:     that of configs/vitb16_pgs.py, 0.6 of unmasked CLIP, but masked_0.5: 0.5. vit_b32 and
          vit_s16 have cheaper image towers; the paper gives no time for them.
Result:   the paper's figures: ImageNet-1K zero-shot, linear probe, COCO text R@1, image R@1

  argument                  what it changes                                  paper
  full                      nothing: PGS-0.3 with ED and OTN                 38.6  64.4  36.0  25.1
  no_transport              ED only                                          36.8  63.2  34.3  24.0
  no_edges                  OTN only                                         36.7  63.0  34.5  23.8
  no_edges_no_transport     neither                                          35.9  61.7  33.5  23.0
  candidates_0.01 to _0.5   pre-selected fraction: 0.01, 0.05, 0.1, 0.3, 0.5 0.05 is the best
  masked_0.3_0.5            masks 30 to 50 % by content, as `full`           38.6  64.4  36.0  25.1
  masked_0.5                masks one half, PGS-0.5                          38.0  64.2  35.2  24.3
  sobel                     edge detector, as `full`                         38.6  64.4  36.0  25.1
  canny                     edge detector                                    38.5 (zero-shot)
  vit_b16                   image tower, as `full`                           38.6  64.4  36.0  25.1
  vit_s16                   image tower: width 384, 6 heads                  below vit_b16
  vit_b32                   image tower: patches of 32 pixels                below vit_s16
  progress_0                similarity of pixels in every step               -
  progress_1                similarity of embeddings in every step           -

The rows for candidates, Canny and the towers are quoted from a summary of the paper (papernotes.org)
and were not checked against its tables; '-' is a row without a known figure. The candidate ratios
between 0.01 and 0.5 were chosen here. vit_s16 has OpenCLIP's ViT-S-16 settings, whose text tower and
embedding are 384 wide too.
"""

from configs import vitb16_pgs
from pgs.errors import UserError

CANDIDATE_RATIOS = (0.01, 0.05, 0.1, 0.3, 0.5)
# argument -> key of the config -> value, where it differs from PGS-0.3
ROWS = {
    'full': {},
    'no_transport': {'masking.use_transport': False},
    'no_edges': {'masking.use_edges': False},
    'no_edges_no_transport': {'masking.use_edges': False, 'masking.use_transport': False},
    **{f'candidates_{ratio}': {'masking.candidate_ratio': ratio} for ratio in CANDIDATE_RATIOS},
    'masked_0.3_0.5': {'masking.min_ratio': 0.3, 'masking.max_ratio': 0.5},
    'masked_0.5': {'masking.min_ratio': 0.5, 'masking.max_ratio': 0.5},
    'sobel': {'masking.edge_detector': 'sobel'},
    'canny': {'masking.edge_detector': 'canny'},
    'vit_b16': {'model.image.width': 768, 'model.image.heads': 12, 'model.image.patch_size': 16},
    'vit_s16': {
        'model.embed_dim': 384,
        'model.image.width': 384,
        'model.image.heads': 6,
        'model.text.width': 384,
        'model.text.heads': 6,
    },
    'vit_b32': {'model.image.patch_size': 32},
    'progress_0': {'masking.fixed_progress': 0.0},
    'progress_1': {'masking.fixed_progress': 1.0},
}


def get_config(row: str = 'full'):
    if row not in ROWS:
        raise UserError(f'ablation.py:{row} is not a row: take one of {", ".join(ROWS)}')
    config = vitb16_pgs.get_config()
    config.update_from_flattened_dict(ROWS[row])
    return config
