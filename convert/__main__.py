"""Convert networks between PyTorch's `.pt` files and the `.safetensors` files of advx_jax.

No PyTorch is needed, and nothing in a `.pt` file is ever executed. Reads what the PyTorch code of
"Adversarial Explanations ..." (Woods, Chen, Teuscher 2019) saves, such as the published networks, and
state dicts of common ResNets, RobustBench's among them.

Examples:
    python -m advx_jax.convert ~/Downloads/resnet44-all.pt ~/Downloads/resnet44-robust.pt
        writes prebuilt/resnet44-all.safetensors and prebuilt/resnet44-robust.safetensors, which
        all commands find by name from then on

    python -m advx_jax.convert --architecture=PreActResNet-18-v2 --normalise=cifar10 checkpoint.pth
        writes prebuilt/checkpoint.safetensors; without the flags, a line says which are needed

    python -m advx_jax.convert --to_pt --output_dir=for_torch runs/mine
        writes the network trained in runs/mine as for_torch/mine.pt; in PyTorch,
        torch.load(path, weights_only=True)["model_params"] is its state dict, "state_dict" for a
        network of another family
"""

import hashlib
from pathlib import Path

import jax
from absl import flags

from advx_jax.cli.commands import command
from advx_jax.cli import file_hint_flags
from advx_jax.cli.file_hint_flags import file_hints
from advx_jax.errors import UserError
from advx_jax.files import check_output_file
from advx_jax.networks.files import SUFFIX, save_network
from advx_jax.networks.registry import WORKDIR_NETWORK, ResolvedNetwork, resolve_network
from advx_jax.networks.robustbench import PREFIX

from .keys import tensor_keys
from .pytorch import read_pt, write_pt

_TO_PT = flags.DEFINE_boolean(
    "to_pt", False, "Write .pt files for PyTorch; takes networks by name, by path, or as training workdirs."
)
_OUTPUT_DIR = flags.DEFINE_string("output_dir", "prebuilt", "Folder for the converted files, made if missing.")

flags.adopt_module_key_flags(file_hint_flags)


@command()
def main(arguments: list[str]) -> None:
    """Convert every network that is named on the command line, and print a line about each."""
    if not arguments:
        expected = "network (name or path)" if _TO_PT.value else ".pt file"
        raise UserError(f"expected at least one {expected}, got none; see --help")
    networks = [_resolve(argument) for argument in arguments]
    targets = [_target(network.path) for network in networks]
    for i, (network, target) in enumerate(zip(networks, targets, strict=True)):
        if target in targets[:i]:
            raise UserError(f"expected networks of different names, got two that would become {target}")
        _check_not_source(target, network)
    # Makes folders, so it waits until nothing else is wrong.
    for target in targets:
        check_output_file(target)
    write = write_pt if _TO_PT.value else save_network
    width = max(len(str(target)) for target in targets)
    print(f"{'written':{width}}  tensors  parameters  sha256 of the source")
    for (classifier, provenance, _), target in zip(networks, targets, strict=True):
        write(target, classifier, provenance)
        n_tensors = len(tensor_keys(classifier.architecture))
        n_parameters = sum(leaf.size for leaf in jax.tree.leaves(classifier.variables["params"]))
        print(f"{target!s:{width}}  {n_tensors:7}  {n_parameters:10}  {provenance.source_sha256 or '-'}", flush=True)


def _resolve(argument: str) -> ResolvedNetwork:
    if _TO_PT.value:
        return resolve_network(argument, file_hints())
    if argument.startswith(PREFIX):
        return resolve_network(argument)
    path = Path(argument)
    hints = file_hints()
    return ResolvedNetwork(*read_pt(path, hints.architecture, hints.normalise, state_dict=hints.state_dict), path)


def _target(source: Path) -> Path:
    """Name the new file after the old one, or after its training workdir."""
    name = source.absolute().parent.name if source.name == WORKDIR_NETWORK else source.stem
    return Path(_OUTPUT_DIR.value) / f"{name}{'.pt' if _TO_PT.value else SUFFIX}"


def _check_not_source(target: Path, network: ResolvedNetwork) -> None:
    """Keep a published file that lies beside its converted form, under the same name, from being replaced."""
    if not target.is_file():
        return
    sha256 = hashlib.sha256(target.read_bytes()).hexdigest()
    if target.samefile(network.path) or sha256 == network.provenance.source_sha256:
        raise UserError(f"{target} is the file that this network comes from; give another --output_dir")


if __name__ == "__main__":
    main()
