"""RobustBench's networks by name, those of the families that are known here.

RobustBench (https://robustbench.github.io) publishes PyTorch files. They say neither what class they
are of nor, most of them, how it normalises images: that stands in RobustBench's code, and as facts in the
table below.
"""

from pathlib import Path
from typing import NamedTuple

from advx_jax.cache import cache_dir
from advx_jax.errors import UserError
from advx_jax.messages import listed, nearest, shown
from advx_jax.networks.folders import network_folders

PREFIX = "robustbench:"
"""How names of these networks begin."""

_CIFAR10_TO_16_DIGITS = (
    "0.4913997551666284,0.48215855929893703,0.4465309133731618/0.24703225141799082,0.24348516474564,0.2615878392604963"
)
_CIFAR100_TO_16_DIGITS = (
    "0.5070751592371323,0.48654887331495095,0.4409178433670343/"
    "0.2673342858792401,0.2564384629170883,0.27615047132568404"
)

# By data, threat model, architecture, normalisation, and the side of the images where it is not the family's own.
_TABLE: dict[tuple[str, str, str, str, int], str] = {
    ("cifar10", "Linf", "DMPreActResNet-18-swish", "cifar10", 0): (
        "Gowal2021Improving_R18_ddpm_100m Rade2021Helper_R18_ddpm Rade2021Helper_R18_extra Rebuffi2021Fixing_R18_ddpm"
    ),
    ("cifar10", "Linf", "DMWideResNet-106-16-swish", "cifar10", 0): "Rebuffi2021Fixing_106_16_cutmix_ddpm",
    ("cifar10", "Linf", "DMWideResNet-28-10-swish", "cifar10", 0): (
        "Cui2023Decoupled_WRN-28-10 Gowal2020Uncovering_28_10_extra Gowal2021Improving_28_10_ddpm_100m "
        "Pang2022Robustness_WRN28_10 Rade2021Helper_ddpm Rebuffi2021Fixing_28_10_cutmix_ddpm "
        "Wang2023Better_WRN-28-10 Xu2023Exploring_WRN-28-10"
    ),
    ("cifar10", "Linf", "DMWideResNet-34-10-swish", "cifar10", 0): "Rade2021Helper_extra",
    ("cifar10", "Linf", "DMWideResNet-34-20-swish", "cifar10", 0): "Gowal2020Uncovering_34_20",
    ("cifar10", "Linf", "DMWideResNet-70-16-swish", "cifar10", 0): (
        "Gowal2020Uncovering_70_16 Gowal2020Uncovering_70_16_extra Gowal2021Improving_70_16_ddpm_100m "
        "Pang2022Robustness_WRN70_16 Rebuffi2021Fixing_70_16_cutmix_ddpm Rebuffi2021Fixing_70_16_cutmix_extra "
        "Wang2023Better_WRN-70-16"
    ),
    ("cifar10", "Linf", "DMWideResNet-82-8-swish", "cifar10", 0): "Bartoldson2024Adversarial_WRN-82-8",
    ("cifar10", "Linf", "DMWideResNet-94-16-swish", "cifar10", 0): "Bartoldson2024Adversarial_WRN-94-16",
    ("cifar10", "Linf", "PreActResNet-18", "cifar10", 0): "Wong2020Fast",
    ("cifar10", "Linf", "PreActResNet-18", "none", 0): "Andriushchenko2020Understanding",
    ("cifar10", "Linf", "ResNet-18-cifar", "none", 0): (
        "Addepalli2021Towards_RN18 Addepalli2022Efficient_RN18 Sehwag2021Proxy_R18"
    ),
    ("cifar10", "Linf", "ResNet-50-cifar", "0.4914,0.4822,0.4465/0.2023,0.1994,0.2010", 0): ("Engstrom2019Robustness"),
    ("cifar10", "Linf", "WideResNet-28-10", "0.5/0.5", 0): "Hendrycks2019Using",
    ("cifar10", "Linf", "WideResNet-28-10", "none", 0): (
        "Carmon2019Unlabeled Sehwag2020Hydra Sridhar2021Robust Standard Wang2020Improving "
        "Wu2020Adversarial_extra Zhang2020Geometry"
    ),
    ("cifar10", "Linf", "WideResNet-34-10", "cifar10", 0): "Chen2020Efficient",
    ("cifar10", "Linf", "WideResNet-34-10", "none", 0): (
        "Addepalli2021Towards_WRN34 Addepalli2022Efficient_WRN_34_10 Chen2021LTD_WRN34_10 "
        "Chen2024Data_WRN_34_10 Cui2020Learnable_34_10 Cui2023Decoupled_WRN-34-10 Huang2020Self "
        "Jia2022LAS-AT_34_10 Sehwag2021Proxy Sitawarin2020Improving Wu2020Adversarial Zhang2019Theoretically "
        "Zhang2019You Zhang2020Attacks"
    ),
    ("cifar10", "Linf", "WideResNet-34-15", "none", 0): "Sridhar2021Robust_34_15",
    ("cifar10", "Linf", "WideResNet-34-20", "cifar10", 0): "Rice2020Overfitting",
    ("cifar10", "Linf", "WideResNet-34-20", "none", 0): (
        "Chen2021LTD_WRN34_20 Chen2024Data_WRN_34_20 Cui2020Learnable_34_20"
    ),
    ("cifar10", "Linf", "WideResNet-70-16", "none", 0): "Jia2022LAS-AT_70_16",
    ("cifar10", "L2", "DMPreActResNet-18-swish", "cifar10", 0): (
        "Rade2021Helper_R18_ddpm Rebuffi2021Fixing_R18_cutmix_ddpm"
    ),
    ("cifar10", "L2", "DMWideResNet-28-10-swish", "cifar10", 0): (
        "Rebuffi2021Fixing_28_10_cutmix_ddpm Wang2023Better_WRN-28-10"
    ),
    ("cifar10", "L2", "DMWideResNet-70-16-swish", "cifar10", 0): (
        "Gowal2020Uncovering Gowal2020Uncovering_extra Rebuffi2021Fixing_70_16_cutmix_ddpm "
        "Rebuffi2021Fixing_70_16_cutmix_extra Wang2023Better_WRN-70-16"
    ),
    ("cifar10", "L2", "PreActResNet-18-v2", "cifar10", 0): "Rice2020Overfitting",
    ("cifar10", "L2", "ResNet-18-cifar", "none", 0): "Sehwag2021Proxy_R18",
    ("cifar10", "L2", "ResNet-50-cifar", "0.4914,0.4822,0.4465/0.2023,0.1994,0.2010", 0): "Engstrom2019Robustness",
    ("cifar10", "L2", "ResNet-50-cifar", _CIFAR10_TO_16_DIGITS, 0): "Augustin2020Adversarial",
    ("cifar10", "L2", "WideResNet-28-10", "0.491,0.482,0.447/0.247,0.243,0.262", 0): "Rony2019Decoupling",
    ("cifar10", "L2", "WideResNet-28-10", "none", 0): "Standard",
    ("cifar10", "L2", "WideResNet-34-10", "none", 0): "Sehwag2021Proxy Wu2020Adversarial",
    ("cifar10", "L2", "WideResNet-34-10", _CIFAR10_TO_16_DIGITS, 0): (
        "Augustin2020Adversarial_34_10 Augustin2020Adversarial_34_10_extra"
    ),
    ("cifar10", "corruptions", "DMWideResNet-70-16-swish", "cifar10", 0): (
        "Rebuffi2021Fixing_70_16_cutmix_extra_L2 Rebuffi2021Fixing_70_16_cutmix_extra_Linf"
    ),
    ("cifar10", "corruptions", "PreActResNet-18-v2", "cifar10", 0): (
        "Kireev2021Effectiveness_AugMixNoJSD Kireev2021Effectiveness_Gauss50percent "
        "Kireev2021Effectiveness_RLAT Kireev2021Effectiveness_RLATAugMix "
        "Kireev2021Effectiveness_RLATAugMixNoJSD"
    ),
    ("cifar10", "corruptions", "ResNet-18-cifar", "0.5/0.5", 0): "Modas2021PRIMEResNet18",
    ("cifar10", "corruptions", "WideResNet-28-10", "none", 0): "Standard",
    ("cifar10", "corruptions", "WideResNet-34-10", "none", 0): (
        "Addepalli2021Towards_WRN34 Addepalli2022Efficient_WRN_34_10"
    ),
    ("cifar10", "corruptions", "WideResNet-40-2", "0.5/0.5", 0): "Hendrycks2020AugMix_WRN",
    ("cifar100", "Linf", "DMPreActResNet-18-swish", "cifar100", 0): (
        "Rade2021Helper_R18_ddpm Rebuffi2021Fixing_R18_ddpm"
    ),
    ("cifar100", "Linf", "DMWideResNet-28-10-swish", "cifar100", 0): (
        "Cui2023Decoupled_WRN-28-10 Pang2022Robustness_WRN28_10 Rebuffi2021Fixing_28_10_cutmix_ddpm "
        "Wang2023Better_WRN-28-10"
    ),
    ("cifar100", "Linf", "DMWideResNet-70-16-swish", "cifar100", 0): (
        "Gowal2020Uncovering Gowal2020Uncovering_extra Pang2022Robustness_WRN70_16 "
        "Rebuffi2021Fixing_70_16_cutmix_ddpm Wang2023Better_WRN-70-16"
    ),
    ("cifar100", "Linf", "PreActResNet-18-v2", "none", 0): "Addepalli2021Towards_PARN18",
    ("cifar100", "Linf", "PreActResNet-18-v2", _CIFAR100_TO_16_DIGITS, 0): "Rice2020Overfitting",
    ("cifar100", "Linf", "ResNet-18-cifar", "none", 0): "Addepalli2022Efficient_RN18",
    ("cifar100", "Linf", "WideResNet-28-10", "0.5/0.5", 0): "Hendrycks2019Using",
    ("cifar100", "Linf", "WideResNet-34-10", "0.5071,0.4867,0.4408/0.2675,0.2565,0.2761", 0): "Chen2020Efficient",
    ("cifar100", "Linf", "WideResNet-34-10", "none", 0): (
        "Addepalli2021Towards_WRN34 Addepalli2022Efficient_WRN_34_10 Chen2021LTD_WRN34_10 "
        "Chen2024Data_WRN_34_10 Cui2020Learnable_34_10_LBGAT0 Cui2020Learnable_34_10_LBGAT6 "
        "Cui2020Learnable_34_10_LBGAT9_eps_8_255 Cui2023Decoupled_WRN-34-10 "
        "Cui2023Decoupled_WRN-34-10_autoaug Jia2022LAS-AT_34_10 Sehwag2021Proxy Sitawarin2020Improving"
    ),
    ("cifar100", "Linf", "WideResNet-34-10", _CIFAR100_TO_16_DIGITS, 0): "Wu2020Adversarial",
    ("cifar100", "Linf", "WideResNet-34-20", "none", 0): "Cui2020Learnable_34_20_LBGAT6 Jia2022LAS-AT_34_20",
    ("cifar100", "corruptions", "DMWideResNet-70-16-swish", "cifar100", 0): (
        "Gowal2020Uncovering_Linf Gowal2020Uncovering_extra_Linf"
    ),
    ("cifar100", "corruptions", "PreActResNet-18-v2", "none", 0): "Addepalli2021Towards_PARN18",
    ("cifar100", "corruptions", "ResNet-18-cifar", "0.5/0.5", 0): "Modas2021PRIMEResNet18",
    ("cifar100", "corruptions", "WideResNet-34-10", "none", 0): (
        "Addepalli2021Towards_WRN34 Addepalli2022Efficient_WRN_34_10"
    ),
    ("cifar100", "corruptions", "WideResNet-40-2", "0.5/0.5", 0): "Hendrycks2020AugMix_WRN",
    ("imagenet", "Linf", "ResNet-18-imagenet", "imagenet", 0): "Salman2020Do_R18",
    ("imagenet", "Linf", "ResNet-50-imagenet", "imagenet", 288): "Wong2020Fast",
    ("imagenet", "Linf", "ResNet-50-imagenet", "imagenet", 0): "Engstrom2019Robustness Salman2020Do_R50",
    ("imagenet", "Linf", "WideResNet-50-2-imagenet", "imagenet", 0): "Salman2020Do_50_2",
    ("imagenet", "corruptions", "ResNet-50-imagenet", "imagenet", 0): (
        "Erichson2022NoisyMix Erichson2022NoisyMix_new Geirhos2018_SIN Geirhos2018_SIN_IN "
        "Geirhos2018_SIN_IN_IN Hendrycks2020AugMix Hendrycks2020Many"
    ),
    ("imagenet", "corruptions", "WideResNet-50-2-imagenet", "imagenet", 0): "Salman2020Do_50_2_Linf",
}


class RobustBenchEntry(NamedTuple):
    """What must be known to read one of RobustBench's files.

    Attributes:
        name: in RobustBench, for instance "Rice2020Overfitting".
        data: "cifar10", "cifar100" or "imagenet".
        threat: "Linf", "L2" or "corruptions".
        architecture: its name.
        normalisation: of the images where the file has none, as --normalise takes it.
        image_side: height and width of the images; None if those that the family is made for.
    """

    name: str
    data: str
    threat: str
    architecture: str
    normalisation: str
    image_side: int | None

    @property
    def path(self) -> str:
        """The whole name, for instance "cifar10/L2/Rice2020Overfitting"."""
        return f"{self.data}/{self.threat}/{self.name}"


def robustbench_entries() -> list[RobustBenchEntry]:
    """All of them."""
    return [
        RobustBenchEntry(name, data, threat, architecture, normalisation, side or None)
        for (data, threat, architecture, normalisation, side), names in _TABLE.items()
        for name in names.split()
    ]


def robustbench_entry(name: str) -> RobustBenchEntry:
    """The network that a name means.

    Args:
        name: for instance "cifar10/L2/Rice2020Overfitting"; data, threat model or both may be left out
            where the rest means one network only; the threat model may stand behind the name instead,
            "Rice2020OverfittingL2".

    Raises:
        UserError: there is no such network, or several.
    """
    entries = robustbench_entries()
    found = [entry for entry in entries if _means(name, entry)]
    if len(found) > 1:
        offered = listed([f"{PREFIX}{entry.path}" for entry in found])
        raise UserError(f"several networks of RobustBench are called {shown(name)}: {offered}")
    if not found:
        close = nearest(name, [entry.path for entry in entries] + [entry.name for entry in entries])
        raise UserError(
            f"expected one of RobustBench's ResNets, such as {PREFIX}cifar10/L2/Rice2020Overfitting, "
            f"got {shown(name)}{close}"
        )
    return found[0]


def robustbench_file(entry: RobustBenchEntry) -> Path:
    """Where its file lies: RobustBench itself puts it into `./models`.

    Raises:
        UserError: it is not there.
    """
    paths = [folder / f"{entry.path}.pt" for folder in (Path("models"), *network_folders())]
    path = next((path for path in paths if path.is_file()), None)
    if path is None:
        raise UserError(
            f"cannot find the network {PREFIX}{entry.path}: put RobustBench's file at {paths[0]}, where its "
            f"load_model leaves it, or at {entry.path}.pt in ./prebuilt, $ADVX_PREBUILT or {cache_dir()}"
        )
    return path


def _means(name: str, entry: RobustBenchEntry) -> bool:
    *before, last = name.split("/")
    whole = (entry.data.lower(), entry.threat.lower())
    given = [part.lower() for part in before]
    if len(set(given)) < len(given) or not set(given) <= set(whole):
        return False
    return last == entry.name or last in (f"{entry.name}{join}{entry.threat}" for join in ("", "_", "-"))
