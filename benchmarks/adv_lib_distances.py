"""Distances that adv-lib's attacks find on the PyTorch twin, to be scored beside ours.

    python -m benchmarks.adv_lib_distances --model=resnet44-all --norm=L2 --n_images=32 --output=distances
    advx attackbench --model=resnet44-all --norm=L2 --n_images=32 --distances=distances/adv-lib-L2.json

Needs `pip install --no-deps adv-lib==0.2.8`. Each attack gets as many passes for each image as in AttackBench
(arXiv 2404.19460), which counts in the network and keeps the nearest misclassified point that the network has seen. An
interrupted measurement goes on.
"""

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from advx_jax.cli.commands import command, no_arguments
from advx_jax.analysis.subset import ara_subset
from advx_jax.attacks import Misclassified
from advx_jax.attacks.projections import NORMS, Norm
from advx_jax.cli import inference_flags, run_flags
from advx_jax.cli.flag_types import define_norm, define_whole
from advx_jax.data.image_set import ImageSet
from advx_jax.errors import UserError
from advx_jax.files import check_output_folder
from advx_jax.networks.classifier import Classifier
from advx_jax.networks.registry import NamedModel
from advx_jax.progress import Update
from advx_jax.reports.results_json import attack_record, fingerprint, write_json
from advx_jax.reports.units import UNITS
from advx_jax.runs.blocks import at_start, load_block
from advx_jax.runs.measurement import Measurement, Pass, measure
from advx_jax.runs.record_checks import is_distance_list, is_index
from advx_jax.runs.store import Record
from benchmarks.adv_lib import peers, smallest_seen
from benchmarks.side_by_side import device_beside_jax, torch_settings, twin_of, use_every_core

_NORM = define_norm("norm", "L2", "Norm of the distances.", NORMS)
_BUDGET = define_whole("budget", 2000, "Passes through the network for each image, forward and backward.")
_N_IMAGES = define_whole("n_images", 32, "How many images of the published subset.")
_OUTPUT = flags.DEFINE_string("output", None, "Folder for the results.", required=True)
_ROWS = define_whole("rows", 32, "Images at a time.")
_COMPILED = flags.DEFINE_bool("compiled", False, "Compile the twin, which takes a minute and makes passes quicker.")
flags.adopt_module_key_flags(inference_flags)

_KEY = re.compile(r"([0-9a-f]{16})/(\d+)")


class PeerDistances(Measurement[str]):
    """Distances of images by adv-lib's attacks, each within a budget of passes.

    Args:
        network: to attack, in its PyTorch form.
        data: labelled images.
        indices: of the images.
        norm: that the attacks minimise.
        budget: passes for each image.
        output: folder for the results.
        rows: images at a time.
        compiled: whether the twin is compiled: the same distances up to rounding.

    Raises:
        UserError: the twin has no such network, or nothing can be written to `output`.
    """

    command = "benchmark adv_lib_distances"
    own_folder = False

    def __init__(
        self,
        network: NamedModel,
        data: ImageSet,
        indices: Sequence[int],
        norm: Norm,
        budget: int,
        output: Path,
        rows: int,
        compiled: bool = False,
    ) -> None:
        if not isinstance(network.classifier, Classifier):
            raise UserError(f"expected a network of the method's own family, got {network.provenance.name}")
        check_output_folder(output)
        self._twin = twin_of(network.classifier).eval().requires_grad_(False)
        self._network, self._data, self._indices, self._norm = network, data, list(indices), norm
        self._budget, self._output, self._rows, self._compiled = budget, output, rows, compiled
        self._peers = {fingerprint(peer.settings(budget))[:16]: peer for peer in peers(norm)}
        self.path = output / f"adv-lib-{norm}.jsonl"
        self.settings = attack_record(network, {"norm": norm, "data_sha256": data.fingerprint})
        self.images = [str(index) for index in self._indices]

    def keys(self, image: str) -> tuple[str, ...]:
        """One for each attack."""
        return tuple(f"{digest}/{image}" for digest in self._peers)

    def is_valid(self, key: str, record: Record) -> bool:
        """Whether it is an attack and an index, with a distance."""
        match = _KEY.fullmatch(key)
        return (
            match is not None
            and is_index(match[2], len(self._data))
            and list(record) == ["distance"]
            and is_distance_list([record["distance"]])
        )

    def passes(self, images: Sequence[str], records: Mapping[str, Record], done: Update) -> Iterator[Pass]:
        """For each attack the images that need none, then the others."""
        start = list(at_start(self._network.classifier, self._data, list(map(int, images)), Misclassified()))
        spared = [image.place for image in start if not image.needs_attack]
        attacked = [image.place for image in start if image.needs_attack]
        device = device_beside_jax()
        twin = self._twin.to(device)
        if self._compiled:
            import torch

            twin = torch.compile(twin, dynamic=False)

        def settle(keys: list[str]) -> Iterator[dict[str, Record]]:
            done(len(keys), spared=True)
            yield {key: {"distance": 0.0} for key in keys}

        for digest, peer in self._peers.items():
            attack = peer.load(self._budget)

            def compute(keys: list[str], attack: Callable[..., Any] = attack) -> Iterator[dict[str, Record]]:
                for begin in range(0, len(keys), self._rows):
                    block = keys[begin : begin + self._rows]
                    found = self._distances(attack, twin, device, [int(key.partition("/")[2]) for key in block])
                    done(len(block))
                    numbers = [d if math.isfinite(d) else None for d in found.tolist()]
                    yield {key: {"distance": number} for key, number in zip(block, numbers, strict=True)}

            for indices, work in ((spared, settle), (attacked, compute)):
                keys = [f"{digest}/{index}" for index in indices]
                yield Pass(keys, records.__contains__, work, self._rows, digest if work is compute else None)

    def _distances(self, attack: Callable[..., Any], twin: Any, device: str, block: list[int]) -> np.ndarray:
        import torch
        from reference.images import to_torch

        torch.manual_seed(0)
        images, labels = load_block(self._data, block)
        places = torch.tensor(labels, dtype=torch.int64, device=device)
        return smallest_seen(attack, twin, to_torch(images).to(device), places, self._norm, self._budget)

    def summarise(self, records: Mapping[str, Record], seconds: Mapping[str, float]) -> str:
        """Write `adv-lib-NORM.json`; returns where it is."""
        attacks = [
            {
                "name": peer.name,
                "passes": self._budget,
                "seconds": seconds.get(digest, 0.0),
                "attack_settings": peer.settings(self._budget),
                "distances": [records[f"{digest}/{index}"]["distance"] for index in self._indices],
            }
            for digest, peer in self._peers.items()
        ]
        found_by = torch_settings() | {"torch_compiled": self._compiled}
        results = self.results_head({**self.settings, "n_images": len(self._indices)} | found_by)
        results |= {"data": self._data.source, "indices": self._indices, "unit": UNITS[self._norm], "attacks": attacks}
        path = self._output / f"adv-lib-{self._norm}.json"
        write_json(path, results)
        return f"written: {path}"


@command()
def main(arguments: list[str]) -> None:
    """Measure."""
    no_arguments(arguments)
    use_every_core()
    with run_flags.share() as share:
        network, data, n_images = inference_flags.load_network_and_images(_N_IMAGES.value, 32)
        indices = ara_subset(data, n_images)
        found = PeerDistances(
            network, data, indices, _NORM.value, _BUDGET.value, Path(_OUTPUT.value), _ROWS.value, _COMPILED.value
        )
        print(measure(found, run_flags.OVERWRITE.value, share).text)


if __name__ == "__main__":
    main()
