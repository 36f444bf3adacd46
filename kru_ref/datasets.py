"""Where data sets are, and how to get them."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from .extras import require

VARIABLE = "KRU_REF_DATA"


@dataclass(frozen=True)
class Dataset:
    """A data set that may be downloaded freely.

    Attributes
    ----------
    url : str
        Folder that holds the files.
    files : mapping of str to str
        SHA-256 of each file.
    """

    url: str
    files: Mapping[str, str]


DATASETS = {
    "mnist": Dataset(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        {
            "train-images-idx3-ubyte.gz": (
                "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
            ),
            "train-labels-idx1-ubyte.gz": (
                "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
            ),
            "t10k-images-idx3-ubyte.gz": (
                "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
            ),
            "t10k-labels-idx1-ubyte.gz": (
                "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
            ),
        },
    )
}


def locate(name: str, file: str, data_dir: Path | None = None) -> Path:
    """Find a file of a data set, gzipped or not.

    Looked for in ``data_dir`` alone if it is given; else in the folder that the
    environment variable KRU_REF_DATA names, then in the user's cache, where
    :func:`fetch` puts it. In each, in the data set's own folder and in the folder itself.

    Parameters
    ----------
    name : str
        Data set, such as "mnist".
    file : str
        Without ".gz".
    data_dir : Path, optional

    Raises
    ------
    FileNotFoundError
        It is in none of them; the error names the files, their SHA-256 and the folders.
    """
    searched = []
    for root in _roots(data_dir):
        for folder in (root / name, root):
            searched.append(str(folder))
            for path in (folder / file, folder / f"{file}.gz"):
                if path.is_file():
                    return path
    listing = "\n".join(f"  {f}  SHA-256 {digest}" for f, digest in DATASETS[name].files.items())
    raise FileNotFoundError(
        f"{file} of {name} is in none of: {', '.join(searched)}\n"
        f"`kru-ref data fetch {name}` downloads it; or name a folder that has these files, "
        f"gzipped or not, with --data-dir or {VARIABLE}:\n{listing}"
    )


def fetch(name: str, url: str | None = None) -> list[Path]:
    """Download a data set into the user's cache and verify it; files that are there stay.

    Parameters
    ----------
    name : str
        Data set, such as "mnist".
    url : str, optional
        A mirror's folder, instead of the data set's own.

    Returns
    -------
    paths : list of Path

    Raises
    ------
    ValueError
        Unknown data set, or a file whose SHA-256 is not the published one.
    ConnectionError
        A file cannot be downloaded.
    ImportError
        pooch or tqdm is not installed.
    """
    if name not in DATASETS:
        raise ValueError(f"data set must be one of {', '.join(DATASETS)}, got {name!r}")
    pooch, requests = require("pooch", "train"), require("requests", "train")
    require("tqdm", "train")
    source = url or DATASETS[name].url
    store = pooch.create(
        path=cache_directory() / name,
        base_url=source if source.endswith("/") else f"{source}/",
        registry={file: f"sha256:{digest}" for file, digest in DATASETS[name].files.items()},
    )
    paths = []
    for file in store.registry:
        try:
            paths.append(Path(store.fetch(file, progressbar=True)))
        except requests.RequestException as error:
            raise ConnectionError(
                f"cannot download {store.get_url(file)} ({error}); try again, name a mirror with "
                f"--url, or put the file into {cache_directory() / name} yourself"
            ) from error
    return paths


def _roots(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        yield Path(data_dir)
        return
    if os.environ.get(VARIABLE):
        yield Path(os.environ[VARIABLE])
    yield cache_directory()


def cache_directory() -> Path:
    """Return the user's cache directory for kru_ref."""
    return Path(require("pooch", "train").os_cache("kru_ref"))
