"""All config keys with their defaults. Other configs change only what differs.

Batch sizes and learning rates are global: they refer to the batch over all devices.
"""

import ml_collections
from ml_collections import config_dict

from vit_jax_tricks.config import parse_arg


__all__ = ["get_config", "parse_arg"]


def get_config() -> ml_collections.ConfigDict:
    """The defaults: a plain supervised run."""
    c = ml_collections.ConfigDict()
    c.name = "run"  # names the default workdir, runs/NAME
    c.task = "supervised"  # what is trained: a name of tasks.TASKS
    c.seed = 0  # parameters, data order, augmentation, dropout
    c.epochs = 100.0  # passes over the training split
    c.steps = config_dict.placeholder(int)  # overrides epochs when set
    c.batch_size = 128  # examples per optimiser step, all devices together
    c.accumulate = 1  # micro-batches per step, computed one after another
    c.dtype = "auto"  # compute type: float32, bfloat16; auto: bfloat16 except on CPUs
    c.resume = "auto"  # required: fails without a checkpoint; never: fails with one;
    # new_data: resumes although the data has changed

    # Weights before the first step: a .safetensors, .npz or .pth file, a workdir, or
    # hub:owner/name. None: random, from the seed. A resumed run ignores this key.
    c.init = config_dict.placeholder(str)

    # The model: a name from list_models(). Further keys override its fields.
    c.model = ml_collections.ConfigDict()
    c.model.name = "vit_small_patch16_224"

    # The data. A key that has no effect on the chosen data is an error.
    c.data = ml_collections.ConfigDict()
    c.data.name = "digits"  # digits, digit_scenes/32|64|224, folder:PATH, tfds:NAME
    c.data.image_size = config_dict.placeholder(int)  # None: that of the data, or 224
    c.data.train_split = "train"  # tfds splits, such as "train[:90%]"
    c.data.test_split = "test"
    c.data.data_dir = config_dict.placeholder(str)  # None: TFDS's default
    c.data.skip_broken = False  # folder: skip broken files instead of stopping
    c.data.split_seed = 0  # folder: seed of the train/test split
    c.data.test_fraction = 0.2  # folder: share of test examples
    c.data.examples = config_dict.placeholder(int)  # train on this many only
    c.data.workers = 0  # decoding processes; 0: threads
    c.data.train_crop = config_dict.placeholder(str)  # random_resized, center, ...
    c.data.crop_scale = (0.08, 1.0)  # random_resized: share of the area
    c.data.crop_ratio = (3 / 4, 4 / 3)  # random_resized: width over height
    c.data.crop_pct = 0.875  # share of the short side kept in evaluation
    c.data.resize = "area"  # or pil_bicubic, as the references do; slower
    c.data.repeats = 1  # 3: repeated augmentation, as in DeiT

    # Augmentation on the device; draws depend on seed, step and example. In order:
    c.augment = ml_collections.ConfigDict()
    c.augment.crop = "none"  # random_resized, random_or_center, simple (reflect pad)
    c.augment.crop_scale = (0.08, 1.0)  # random crops: share of the area
    c.augment.crop_ratio = (3 / 4, 4 / 3)  # random crops: width over height
    c.augment.flip = False  # horizontally, with probability 1/2
    c.augment.auto_augment = "none"  # a policy: rand-m9-mstd0.5-inc1, original, 3a,
    # imagenet, cifar10, svhn, trivial, augmix-m3-w3, ...: see augment/parse.py
    c.augment.color_jitter = 0.0  # strength: brightness, contrast, saturation
    c.augment.hue = 0.0  # strength in turns; needs color_jitter
    c.augment.jitter_prob = 0.8  # share of jittered images
    c.augment.interpolation = "bicubic"  # crop and policy; or bilinear, random, ...
    c.augment.degrees = 0.0  # rotate by up to this many degrees
    c.augment.translate = 0.0  # shift by up to this fraction of the side
    c.augment.scale = (1.0, 1.0)  # zoom range
    c.augment.shear = 0.0  # shear by up to this many degrees
    c.augment.pad = 0  # pad by this many pixels and crop back at random
    c.augment.erasing = 0.0  # share of images with erased boxes, after normalisation
    c.augment.erasing_mode = "pixel"  # noise; or const (0), rand (one colour)
    c.augment.erasing_count = 1  # boxes per image, at most
    c.augment.mixup = 0.0  # alpha of mixup's Beta distribution; 0 is off
    c.augment.cutmix = 0.0  # alpha of cutmix's Beta distribution; 0 is off
    c.augment.mix_prob = 1.0  # share of mixed batches
    c.augment.switch_prob = 0.5  # cutmix's share when both are on
    c.augment.mix_mode = "batch"  # one draw per batch; or pair, elem
    c.augment.mix_first = False  # True: before erasing, as in timm; else after, as DeiT
    c.augment.multi_scale = ()  # image sizes of the steps, such as (160, 192, 224)
    c.augment.multi_scale_every = 1  # steps in a row that have one size

    # Loss terms; each has a weight. More: distillation, keep_ratio, r_drop (alpha),
    # token_distillation, token_labels.
    c.loss = ml_collections.ConfigDict()
    c.loss.classification = ml_collections.ConfigDict()
    c.loss.classification.name = "softmax"  # sigmoid, smoothed_focal, focal, ...
    c.loss.classification.weight = 1.0
    c.loss.classification.smoothing = 0.0  # label smoothing, uniform over all classes
    c.loss.classification.dense_weight = 1.0  # weight of a dense head's token loss
    c.loss.classification.dist_weight = 0.5  # the distillation head's share, if any
    c.loss.classification.target_threshold = config_dict.placeholder(float)  # sigmoid
    c.loss.classification.sum_classes = False  # sigmoid: sum over classes, not mean
    c.loss.classification.focal_weight = config_dict.placeholder(float)  # None: 0.3
    c.loss.classification.alpha = config_dict.placeholder(float)  # focal; None: 0.25
    c.loss.classification.gamma = config_dict.placeholder(float)  # focal; None: 2

    # Teachers for the terms distillation, token_distillation and token_labels.
    c.teacher = ml_collections.ConfigDict()
    c.teacher.sources = ()  # teachers run in the step: workdirs or NAME@WEIGHTS
    c.teacher.pack = config_dict.placeholder(str)  # a label pack instead
    c.teacher.smoothing = 0.0  # label smoothing of token labels
    c.teacher.as_released = False  # transpose a pack's crops, as LV-ViT's code does

    # Quantisation-aware training (QAT); off while no key is set. Ranges are
    # calibrated on training images before the first step and kept in the state.
    c.quant = ml_collections.ConfigDict()
    c.quant.weights = config_dict.placeholder(str)  # int8_narrow, int4_narrow, ...
    c.quant.activations = config_dict.placeholder(str)  # int8, uint8, float8_e4m3fn, ..
    c.quant.weight_observer = config_dict.placeholder(str)  # None: min_max; or mse, ...
    c.quant.activation_observer = config_dict.placeholder(str)  # percentile, mse, ...
    c.quant.percentile = config_dict.placeholder(float)  # of percentile; None: 99.99
    c.quant.learned = False  # train the steps (LSQ); else fixed, or from the weights
    c.quant.calibration = config_dict.placeholder(int)  # images; None: 512
    c.quant.rules = ()  # tried first: ((regex, None or dict(grid="int8", ...)), ...)

    c.optimizer = ml_collections.ConfigDict()
    c.optimizer.name = "adamw"  # adam, adamw, lamb, lion, muon, sgd
    c.optimizer.weight_decay = 0.05  # times the learning rate, as in torch and optax
    c.optimizer.grad_clip = config_dict.placeholder(float)  # None: 1 for LAMB, else off
    c.optimizer.clip_mode = "norm"  # or adaptive: per unit, relative to the parameter
    c.optimizer.layer_decay = config_dict.placeholder(float)  # lr factor per layer down
    c.optimizer.b1 = config_dict.placeholder(float)  # None: the optimiser's own default
    c.optimizer.b2 = config_dict.placeholder(float)
    c.optimizer.eps = config_dict.placeholder(float)
    c.optimizer.momentum = config_dict.placeholder(float)
    c.optimizer.nesterov = config_dict.placeholder(bool)
    c.optimizer.trust_clip = config_dict.placeholder(bool)  # LAMB: ratio at most 1
    c.optimizer.always_adapt = config_dict.placeholder(bool)  # LAMB: also without decay
    c.optimizer.rules = ()  # ((regex, {"lr_mult": 0.1, "freeze": True}), ...)

    c.schedule = ml_collections.ConfigDict()
    c.schedule.name = "cosine_optax"  # cosine_timm, cosine_prefix, cosine_optax, ...
    c.schedule.lr = 1e-3  # the peak
    c.schedule.lr_per = config_dict.placeholder(int)  # 512: lr is for batch 512
    c.schedule.warmup_epochs = 5.0
    c.schedule.warmup_lr = 0.0
    c.schedule.min_lr = 0.0
    c.schedule.cooldown_epochs = 0.0  # epochs at min_lr at the end
    c.schedule.per_epoch = False  # constant rate within an epoch, as in timm
    c.schedule.lag_epochs = 0  # 1: use the previous epoch's rate, as in DeiT

    c.ema = ml_collections.ConfigDict()
    c.ema.decay = config_dict.placeholder(float)  # None is off
    c.ema.warmup = True  # smaller decay at first; needed for short runs

    c.eval = ml_collections.ConfigDict()
    c.eval.epochs = 1.0  # epochs between evaluations of the test split
    c.eval.batch_size = 256

    c.checkpoint = ml_collections.ConfigDict()
    c.checkpoint.steps = config_dict.placeholder(int)  # also save every so many steps
    c.checkpoint.keep = 2  # number of newest checkpoints; the best is always kept

    c.log = ml_collections.ConfigDict()
    c.log.steps = 50  # steps between lines of metrics.jsonl
    c.log.tensorboard = True  # also write event files

    # Device mesh: the product is the number of devices; -1 takes the rest.
    c.mesh = ml_collections.ConfigDict()
    c.mesh.data = -1  # replicates parameters, splits the batch
    c.mesh.fsdp = 1  # splits parameters and the batch
    c.mesh.tensor = 1  # splits heads and hidden units
    return c.lock()
