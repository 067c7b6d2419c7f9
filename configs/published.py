"""The constants that all published recipes share, under the paper's names (docs/method.md, Training)."""

from ml_collections import ConfigDict


def published(name: str) -> ConfigDict:
    """Recipe of a published network without anything special; the others change it.

    Args:
        name: of the network that comes out.
    """
    config = ConfigDict()
    config.name = name
    config.seed = 0
    # The images, as --data of the other commands; "" looks for CIFAR-10 in the usual places.
    config.data = ""
    # Height and width to which images are brought; 0 for as they are.
    config.image_size = 0
    config.epochs = 200
    # Examples of all devices together. 512 as the published networks; 128 is the paper's text.
    config.batch_size = 512
    # Training images kept out of training, by which best.safetensors is chosen; 5000 is usual.
    config.held_out = 0
    # Network to start from, as --model; "" for a fresh one.
    config.init_from = ""
    # "synchronised", or "per_device" as the published code normalised.
    config.batch_norm = "synchronised"
    # "float32"; for the convolutions on accelerators also "tensorfloat32" (NVIDIA GPUs) or "bfloat16".
    config.compute_dtype = "float32"

    # ResNet-44: three stages of seven blocks.
    config.architecture = ConfigDict(
        {
            # A network of another family instead, for instance "PreActResNet-18" or "WideResNet-28-10".
            "name": "",
            "stage_lengths": (7, 7, 7),
            "stage_widths": (16, 32, 64),
            # 0 for as many as the data have.
            "n_classes": 0,
            "activation": "relu",
            # d, the width of the Half-Huber ReLU's bowl.
            "bowl_width": 0.5,
        }
    )
    config.optimizer = ConfigDict(
        {
            # 0.1 for each 128 examples of the global batch: 0.4 for 512.
            "learning_rate_per_128": 0.1,
            # Epochs over which the rate rises from 0.
            "warm_up_epochs": 0.0,
            # "drops", as published; "linear" or "cosine" to 0 at the last step.
            "decay": "drops",
            # Epochs, counted from 0, from which on the rate is a tenth of what it was.
            "learning_rate_drops": (170, 195),
            "momentum": 0.9,
            "weight_decay": 1e-4,
        }
    )
    # Padding before the crop is in pixels of images of 32x32; of others it is in proportion.
    config.augmentation = ConfigDict({"padding": 4, "flip_probability": 0.5})
    # No adversarial training. The numbers are those of the paper's L2 attack.
    config.attack = ConfigDict(
        {
            # "none", "l2" (bounded) or "l2_min" (minimum norm).
            "kind": "none",
            # Length of the path, and the bound of "l2": RMS on the [0,1] scale.
            "eps": 0.01,
            # T.
            "steps": 7,
            # How often an example is attacked; 0.5 is the paper's half-half.
            "attacked_probability": 1.0,
        }
    )
    # The Lipschitz penalty; None is without.
    config.penalty = None
    # What is kept while training; nothing here changes the result.
    config.keeping = ConfigDict(
        {
            "checkpoint_minutes": 10.0,
            "n_checkpoints": 3,
            # Steps between two lines of metrics.
            "log_every": 10,
            # Images of the short accuracy-robustness area at the end; 0 for none.
            "ara_images": 0,
        }
    )
    return config


def add_robust_additions(config: ConfigDict) -> None:
    """Add the Half-Huber ReLU and the Lipschitz penalty ψ·mean((∂s/∂x)²), ψ = ψ₀·exp(rate·r)."""
    config.architecture.activation = "half_huber"
    with config.unlocked():
        config.penalty = ConfigDict(
            {
                # ψ₀ and the growth of ln ψ with the integrator r.
                "weight_at_zero": 220.0,
                "rate": 0.02,
                # r rises by -ln(CE/1.5), at least by -0.01 and at most by 1 a step.
                "target_loss": 1.5,
                "smallest_move": -0.01,
                "largest_move": 1.0,
                # ζ, how often the label's margin takes the place of a random logit.
                "tandem_probability": 0.2,
            }
        )
