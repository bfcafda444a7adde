"""Every default, once: the paper's recipe (ViT-B/16 on CC12M, arXiv 2503.17080) with PGS-0.3.

A config file starts from this one and changes what differs; a flag changes a key of either:
`python main.py --config=configs/vitb16_pgs.py --config.batch_size=1024`.
"""

import ml_collections
from ml_collections import config_dict


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    # --- Length ---
    config.seed = 0
    config.batch_size = 4096  # pairs, over all devices and hosts; the devices divide it
    config.epochs = 32  # passes over the data, where total_steps is not set
    config.total_steps = config_dict.placeholder(int)  # None: epochs * ceil(pairs / batch_size)

    # --- Start ---
    config.init_from = ''  # weights that a new run starts from (docs/weights.md); '': random ones

    # --- Devices and memory ---
    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = -1  # devices that split the batch alone; -1: all that fsdp leaves
    config.mesh.fsdp = 1  # devices that split parameters and optimiser as well
    config.microbatches = 1  # parts of the batch that are embedded one after the other, exactly

    # --- What is written, in steps ---
    config.log_every = 100
    config.checkpoint_every = 1000
    config.checkpoints_kept = 2
    config.profile_steps = 0  # steps to trace for TensorBoard's profiler, after the first few

    # --- Scores, besides those on held-out pairs at start and end ---
    config.evals = ()  # 'held_out', tasks and groups of pgs.evaluate: ('zeroshot/imagenet1k',)
    config.eval_every = 0  # steps; 0: at the end alone
    config.eval_data_root = '~/clip_benchmark'  # folder of the sets (docs/evaluation.md)

    # --- Data ---
    config.data = ml_collections.ConfigDict()
    config.data.name = 'cc12m'  # 'openmoji' (embedded), or the TFDS name of what is in data.dir
    config.data.dir = '~/tensorflow_datasets'  # a prepared folder, or TFDS data sets by name
    # Rows (name, dir, weight) to train on; name and dir are then what is scored alone.
    config.data.mixture = ()
    config.data.skip_unreadable = False  # leave damaged records out, with a warning, or stop
    config.data.cache_dir = '~/.cache/clip_pgs'  # where the embedded data set is built
    config.data.train_split = 'train'
    config.data.validation_split = 'validation'  # not scored where the data set has none
    config.data.crop_scale = (0.9, 1.0)  # area of the random resized crop, shares of the image

    # --- Model ---
    config.model = ml_collections.ConfigDict()
    config.model.embed_dim = 512
    config.model.dtype = 'auto'  # of the computation: 'bfloat16' on TPU and GPU, 'float32' on CPU
    config.model.remat = 'dots'  # recomputed backward: 'none', 'dots' (all but products), 'full'
    config.model.quick_gelu = False  # x * sigmoid(1.702 x), as OpenAI's weights want; exact GELU
    config.model.image = ml_collections.ConfigDict()
    config.model.image.image_size = 224  # pixels
    config.model.image.patch_size = 16  # pixels; divides image_size
    config.model.image.width = 768
    config.model.image.layers = 12
    config.model.image.heads = 12
    config.model.image.mlp_ratio = 4.0
    config.model.text = ml_collections.ConfigDict()
    config.model.text.context_length = 77  # tokens
    config.model.text.vocab_size = 49408  # CLIP's BPE
    config.model.text.width = 512
    config.model.text.layers = 12
    config.model.text.heads = 8
    config.model.text.mlp_ratio = 4.0

    # --- Masking: a strategy reads the keys that are its keyword arguments ---
    config.masking = ml_collections.ConfigDict()
    config.masking.strategy = 'pgs'  # 'none', 'random', 'pgs'
    config.masking.mask_ratio = 0.5  # random: masked share of the patches (FLIP)
    config.masking.candidate_ratio = 0.05  # pgs: pre-selected share of the patches
    config.masking.min_ratio = 0.3  # pgs: masked share of an image, at least
    config.masking.max_ratio = 0.5  # pgs: and at most
    config.masking.edge_weight = 8.0  # pgs: beta, how much an edge protects its patch
    config.masking.epsilon = 0.1  # pgs: entropy of the transport
    config.masking.threshold = 1.0  # pgs: balanced similarity L * P from which patches are alike
    config.masking.budget_group = 16  # pgs: images that share a token budget, if min < max_ratio
    config.masking.long_share = 0.5  # pgs: of these, with room for min_ratio; 1: all, by padding
    config.masking.use_edges = True  # pgs: ED of the paper's ablation
    config.masking.use_transport = True  # pgs: OTN of the paper's ablation

    # --- Optimiser: AdamW, linear warm-up, cosine to 0 ---
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.peak_learning_rate = 1e-3
    config.optimizer.warmup_steps = 10_000
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.98
    config.optimizer.epsilon = 1e-6
    config.optimizer.weight_decay = 0.2  # on matrices alone
    config.optimizer.mu_dtype = 'float32'  # of the first moment: 'bfloat16' saves 2 bytes a weight
    return config
