"""All defaults: the paper's recipe (ViT-B/16 on CC12M, arXiv 2503.17080) with PGS-0.3.

A config file starts from this one and changes what differs. A flag changes a key of either:
`python main.py --config=configs/vitb16_pgs.py --config.batch_size=1024`.
"""

import ml_collections
from ml_collections import config_dict

from input_pipeline.tokenizer import VOCAB_SIZE


def get_config() -> ml_collections.ConfigDict:
    config = ml_collections.ConfigDict()

    # --- Length ---
    config.seed = 0
    config.batch_size = 4096  # pairs, global; a multiple of the number of devices
    config.epochs = 32  # passes over the data; used if total_steps is None
    config.total_steps = config_dict.placeholder(int)  # None: epochs * ceil(pairs / batch_size)

    # --- Start ---
    config.init_from = ''  # path of initial weights (docs/weights.md); '': random
    config.model_from_weights = False  # True: config.model has the sizes of these weights

    # --- Devices and memory ---
    config.mesh = ml_collections.ConfigDict()
    config.mesh.data = -1  # data-parallel size; -1: the remaining devices
    config.mesh.zero = 1  # data parallelism that shards the update and its state (ZeRO-1)
    config.mesh.fsdp = 1  # fully sharded data parallelism: shards parameters and optimiser too
    config.microbatches = 1  # GradCache microbatches: the full batch's gradient in less memory
    config.compile_cache = '~/.cache/clip_pgs/xla'  # folder of compiled programs; '': none

    # --- Output, in steps ---
    config.log_every = 100
    config.checkpoint_every = 1000
    config.checkpoints_kept = 2  # the newest ones
    config.checkpoints_kept_every = 0  # steps whose multiples are kept as well; 0: none
    config.checkpoint_best = ''  # score whose best checkpoint is kept as well: 'eval/val_loss'
    config.profile_steps = 0  # number of steps to trace for TensorBoard's profiler
    config.tracker = ''  # 'wandb': metrics, config, results and figures go there as well

    # --- Faults (docs/reliability.md) ---
    config.max_skipped = 3  # steps in a row without a finite loss and gradient that stop the run
    config.failed_saves_allowed = 0  # checkpoints in a row that may fail to be written
    config.silence_limit = 0.0  # seconds without progress that stop the run; 0: none

    # --- Evaluation, in addition to held-out pairs at start and end ---
    config.evals = ()  # 'held_out', and tasks of pgs.evaluate: ('zeroshot/imagenet1k',)
    config.eval_masked = False  # score held-out pairs on masked images as well
    config.eval_every = 0  # steps; 0: only at the end
    config.eval_data_root = '~/clip_benchmark'  # evaluation sets (docs/evaluation.md)

    # --- Data ---
    config.data = ml_collections.ConfigDict()
    config.data.name = 'cc12m'  # an embedded set (docs/data.md), or a TFDS name in data.dir
    # A prepared folder, or a folder of TFDS data sets; local or gs://
    config.data.dir = '~/tensorflow_datasets'
    # Rows (name, dir, weight) to train on; name and dir are then used for held-out scores only.
    config.data.mixture = ()
    config.data.skip_unreadable = False  # True: skip damaged records with a warning; False: stop
    config.data.shuffle = 'full'  # or 'window': shards are read whole, for buckets (docs/data.md)
    config.data.window_streams = 16  # window: parts of a batch, divided among the processes
    config.data.window_shards = 4  # window: shards of a stream whose records are mixed
    # window: folder of copies; '': shards of gs:// only, in data.cache_dir/shards
    config.data.window_cache = ''
    config.data.window_cache_gb = (
        0.0  # window: largest size of a process's copies; 0: the free disk
    )
    config.data.cache_dir = '~/.cache/clip_pgs'  # of the embedded data sets
    config.data.train_split = 'train'
    config.data.validation_split = 'validation'  # no held-out scores if the data set lacks it
    config.data.crop_scale = (
        0.9,
        1.0,
    )  # area of the random resized crop, as a fraction of the image
    config.data.scaled_decode = False  # True: decode large JPEGs at 1/2 or 1/4 of their size

    # --- Model ---
    config.model = ml_collections.ConfigDict()
    config.model.embed_dim = 512
    config.model.dtype = 'auto'  # of the computation; auto: bfloat16 on TPU and GPU, float32 on CPU
    config.model.remat = (
        'dots'  # what the backward pass recomputes: 'none', 'dots' (all but products), 'full'
    )
    # Blocks that follow each other without a loop; 0: all on a TPU, 1 elsewhere
    config.model.unroll = 0
    # 'auto' (XLA's, on a GPU cuDNN's) or 'pallas' (our kernel for TPUs, where it pays)
    config.model.attention = 'auto'
    config.model.quick_gelu = (
        False  # True: x * sigmoid(1.702 x), for OpenAI's weights; False: exact GELU
    )
    config.model.image = ml_collections.ConfigDict()
    config.model.image.image_size = 224  # pixels
    config.model.image.patch_size = 16  # pixels; divides image_size
    config.model.image.width = 768
    config.model.image.layers = 12
    config.model.image.heads = 12
    config.model.image.mlp_ratio = 4.0
    config.model.text = ml_collections.ConfigDict()
    config.model.text.context_length = 77  # tokens
    config.model.text.vocab_size = VOCAB_SIZE  # of CLIP's byte-pair tokenizer
    config.model.text.width = 512
    config.model.text.layers = 12
    config.model.text.heads = 8
    config.model.text.mlp_ratio = 4.0
    # Tokens that training computes for a caption on average, packed; None: context_length for each
    config.model.text.tokens_per_pair = config_dict.placeholder(int)

    config.weights_ema = 0.0  # decay of an average of the weights, which is then scored; 0: none

    # --- Masking: the options of all strategies (docs/masking.md); each reads its own ---
    config.masking = ml_collections.ConfigDict()
    # A file of pgs/masking: 'none', 'random', 'gaussian', 'cluster', 'attentive', 'pgs', 'background'
    config.masking.strategy = 'pgs'
    config.masking.until = 1.0  # share of the run after which images are whole; 1: never
    config.masking.whole_share = 0.0  # share of each batch whose images keep all patches
    config.masking.mask_ratio = 0.5  # masked fraction: random, gaussian, attentive, background
    config.masking.covariance = 0.2  # gaussian: of the centre's density, sides reach from -1 to 1
    config.masking.attention_scale = 0.5  # attentive: resolution of the scorer's images, 0.5 or 1.0
    config.masking.ema_decay = 0.996  # attentive: of the scorer's weights, rises to 1 over the run
    config.masking.anchor_ratio = 0.03  # cluster: fraction of the patches drawn as anchors
    config.masking.cluster_threshold = 0.5  # cluster: cosine to an anchor that masks a patch
    # cluster: mean masked fraction for which the threshold is set before training; 0: as given
    config.masking.cluster_target = 0.0
    config.masking.edge_window = 3  # background: side of the patches over which edges are averaged
    config.masking.border_weight = 8.0  # background: how strongly the middle is protected; 0: none
    config.masking.candidate_ratio = 0.05  # pgs, background: pre-selected fraction of the patches
    config.masking.min_ratio = 0.3  # pgs, cluster: smallest masked fraction of an image
    config.masking.max_ratio = 0.5  # pgs: largest masked fraction of an image
    config.masking.edge_weight = (
        8.0  # pgs, background: beta, how strongly an edge protects its patch
    )
    config.masking.epsilon = 0.1  # pgs, background: entropy regularisation of the transport
    config.masking.threshold = 1.0  # pgs: balanced similarity L * P above which patches are alike
    config.masking.budget_group = (
        16  # pgs: images that share a token budget if min_ratio < max_ratio
    )
    config.masking.long_share = (
        0.5  # pgs: share of each group given the long (min_ratio) slots; 1: all
    )
    config.masking.use_edges = True  # pgs: ED of the paper's ablation
    config.masking.use_transport = True  # pgs: OTN of the paper's ablation
    config.masking.edge_detector = 'sobel'  # pgs: or 'canny' of the paper's ablation
    config.masking.selection_noise = 0.0  # pgs, background: randomness, against starvation
    config.masking.fixed_progress = -1.0  # pgs: progress from 0 to 1 for all steps; -1: the run's

    # --- Text masking: captions with too many tokens, in training only (docs/data.md) ---
    config.text_masking = ml_collections.ConfigDict()
    config.text_masking.strategy = 'truncate'  # or 'random', 'block', 'frequency' (CLIPF)
    # Tokens of a training caption, with start and end; 0: model.text.context_length
    config.text_masking.context_length = 0
    config.text_masking.threshold = 1e-6  # frequency: share of all words below which all are kept

    # --- Optimiser: AdamW, linear warm-up, cosine to 0; options for fine-tuning: docs/training.md ---
    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.peak_learning_rate = 1e-3
    config.optimizer.warmup_steps = 10_000
    config.optimizer.schedule = 'cosine'  # after the warm-up; or 'constant', 'wsd'
    config.optimizer.decay_share = 0.1  # wsd: share of the run, at its end, in which it falls to 0
    config.optimizer.tail_rate = 0.0  # peak of a second warm-up, after masking.until; 0: none
    config.optimizer.tail_warmup_steps = 0
    config.optimizer.beta1 = 0.9
    config.optimizer.beta2 = 0.98
    config.optimizer.epsilon = 1e-6
    config.optimizer.weight_decay = 0.2  # on matrices only
    config.optimizer.mu_dtype = (
        'float32'  # of the first moment; 'bfloat16' saves 2 bytes a parameter
    )
    config.optimizer.clip_norm = 0.0  # largest norm of the gradient; 0: any
    config.optimizer.layer_decay = 1.0  # a layer's rate over that of the layer after it
    config.optimizer.frozen = ()  # towers that are not trained: 'image', 'text'
    config.optimizer.frozen_image_layers = 0  # first blocks that are not trained; 0: none
    config.optimizer.frozen_text_layers = 0  # the embeddings before them are not either
    return config
