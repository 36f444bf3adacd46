"""Record runs of `kru-ref reproduce` and write RESULTS.md, with a picture for each data set.

    python benchmarks/record_results.py runs/*

What was recorded before stays in kru_ref/training/recorded and is part of the tables.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import NamedTuple

import matplotlib.pyplot as plt
import numpy as np
import scipy.stats

from kru_ref.training import paper
from kru_ref.training.records import RECORDED, record_of, recorded

HERE = Path(__file__).parent


class Section(NamedTuple):
    """A table of RESULTS.md and its picture."""

    title: str
    recipes: str  # what the names of its recipes begin with
    metric: str
    unit: str
    scale: float = 1.0
    logarithmic: bool = False
    published: tuple[tuple[str, str], ...] = ()
    baseline: tuple[str, str] | None = None  # by arithmetic
    remark: str = ""


# Of the paper's tables and figures: what repeats, what does not, what it took.
REMARKS = {
    ("table", 2): (
        "So far two seeds in order and one permuted, at the paper's size. RC-uRNN, FC-uRNN, "
        "oRNN and EURNN are as the paper quotes them."
    ),
    ("table", 3): (
        "So far one seed each of the smaller KRU and the smaller LSTM, both below the paper's "
        "figures, the LSTM by more. It took batches of 20 "
        "pieces of 50 characters, whose many updates take it further than the few of large ones: "
        "after half an epoch `kru-ref train characters --cell rnn --hidden-size 411 --factors 3 3 "
        "137 137 --rate 2e-2 --factor-rate 5e-4 --updates 500` is at 2.022 bits on validation "
        "data, with `--batch-size 20 --length 50 --updates 2500` in its place at 1.896. Runs at "
        "another size are further down."
    ),
    ("table", 4): (
        "All four networks repeat, and all but one end below the paper's figures: LSTM 36 on "
        "JSB, whose seeds differ by 0.3. It took rates of two to twelve times those of our "
        "large networks and mostly dropout of the states, both chosen on validation data "
        "(what the paper used is not known to us). For a KRU it took learning its factors as "
        "fast as the rest, with a penalty of a tenth of the usual one: learned ones then end "
        "0.08 and 0.09 below frozen ones, each of three seeds below each frozen one. In a "
        "KRU-LSTM learning its factors makes no difference. The RNN and LSTM of the paper are "
        "those of Chung et al. 2014: an RNN of 100 (with dropout there) is as good as a KRU "
        "on Piano-midi, and 0.11 worse on JSB. Our totals have everything in them, the "
        "readout and the learned first state too; the paper's do not always: U of KRU 100 "
        "alone has 8,800 numbers, so its 10K have no room for a readout's 8,888, while KRU- "
        "LSTM 45 has 16,282 numbers without the readout and 20,330 with it."
    ),
    ("figure", 1): (
        "Ours are there in a fifth to two fifths of the updates, from equally spaced "
        "eigenvalues and at a rate of the factors that falls with T; frozen factors are about "
        "as fast. RC-uRNN, which stays at the baseline in the paper, solves T = 1000 too, and so "
        "does an LRU (Orvieto et al. 2023, parameters as published) whose eigenvalues start within "
        "a thousandth of the unit circle: later than the KRU, and at rates of its own, since at "
        "the KRU's it is still at the baseline after 1,000 updates (`kru-ref train copying --delay "
        "1000 --cell lru --matrix diagonal --r-min 0.999 --r-max 0.9999 --factor-rate 1e-6 "
        "--schedule cosine --max-norm 1 --updates 1000`: 0.0206)."
    ),
    ("figure", 2): (
        "One rule for all lengths: batches of 10, Adam at 3e-3 along half a cosine, the factors at "
        "3e-3 / T, and gradients clipped at 0.1. At a constant rate "
        "`kru-ref train adding --length 100 --hidden-size 512 --batch-size 10 --updates 5000 "
        "--factor-rate 3e-5 --schedule constant --evaluate-every 250` goes up and down, and ends "
        "at 0.054. Clipped at 1, T = 200 is learned in some seeds only: `kru-ref train adding "
        "--length 200 --hidden-size 512 --batch-size 20 --updates 4000 --factor-rate 1.5e-5 "
        "--evaluate-every 250 --seed S` ends at 0.19 and 0.012 for S = 0, 1. It is not reliable "
        "yet: seeds 1 and 2 at T = 200 begin to learn after 35,000 samples and stop falling at "
        "0.06, while both seeds of twice that length are there in time. T = 750 is to be run anew."
    ),
}
BAI = "Bai et al. 2018"
ARJOVSKY = "Arjovsky et al. 2016"
SECTIONS = [
    Section(
        "Copying memory, T = 1000",
        "copying-1000",
        "loss",
        "cross-entropy, nats",
        logarithmic=True,
        published=((f"LSTM, GRU, RNN ({BAI})", "0.0204, 0.0197, 0.0202"),),
        baseline=("without memory, 10 ln 8 / (T + 20)", "0.0204"),
        remark="The eigenvalues of W start equally spaced. With Haar-random factors it depends on "
        "the draw: `kru-ref train copying --delay 1000 --factor-rate 1e-6 --updates 1000 --seed S` "
        "ends at 2.4e-6, 1.7e-6 and 0.0147 for S = 0, 1, 2. The third draw has three factors whose "
        "two eigenvalues are nearly opposite, and two whose phases differ by the same angle: their "
        "product has about 18 clusters of eigenvalues, and powers of W nineteen steps apart must "
        "be told apart. Given well separated eigenvalues, frozen factors solve the task too: it "
        "asks for a reservoir. The learned ones end lower, for each seed here and below.",
    ),
    Section(
        "Copying memory, T = 2000",
        "copying-2000",
        "loss",
        "cross-entropy, nats",
        logarithmic=True,
        baseline=("without memory, 10 ln 8 / (T + 20)", "0.0103"),
    ),
    Section(
        "Copying memory, T = 10,000",
        "copying-10000",
        "loss",
        "cross-entropy, nats",
        logarithmic=True,
        baseline=("without memory, 10 ln 8 / (T + 20)", "0.00208"),
    ),
    *(
        Section(
            f"Adding, T = {T}",
            f"adding-{T}",
            "loss",
            "mean squared error",
            logarithmic=True,
            baseline=("always predicting 1, 1/6", "0.167"),
        )
        for T in (100, 200, 400)
    ),
    Section(
        "Adding, T = 750",
        "adding-750",
        "loss",
        "mean squared error",
        logarithmic=True,
        published=((f"LSTM, GRU, RNN at T = 600 ({BAI})", "0.164, 5.3e-5, 0.177"),),
        baseline=("always predicting 1, 1/6", "0.167"),
    ),
    Section(
        "Tone, T = 1000",
        "tone",
        "loss",
        "mean squared error",
        logarithmic=True,
        baseline=("always predicting 0, 1/3; a matched filter 0.0078", "0.333"),
    ),
    Section(
        "Pixel MNIST",
        "pixels-kru",
        "accuracy",
        "accuracy, %",
        scale=100,
        published=(
            (f"uRNN, LSTM ({ARJOVSKY})", "95.1, 98.2"),
            (f"LSTM, GRU, RNN ({BAI})", "87.2, 96.2, 21.5"),
        ),
        remark="15 epochs. The eigenvalues of W start equally spaced. Two seeds differ by 0.7 "
        "points learned and 0.4 frozen, and so decide as much as the settings: seed 0 with "
        "Haar-random factors, `kru-ref train pixels --updates 8250 --schedule cosine --max-norm 1 "
        "--evaluate-every 550`, ends at 96.40 %, and with their readout learned twenty times as "
        "fast (`--readout-rate 2e-2`) at 96.32 %.",
    ),
    Section(
        "Permuted pixel MNIST",
        "pixels-permuted",
        "accuracy",
        "accuracy, %",
        scale=100,
        published=(
            (f"uRNN, LSTM ({ARJOVSKY})", "91.4, 88.0"),
            (f"LSTM, GRU, RNN ({BAI})", "85.7, 87.3, 25.3"),
        ),
        remark="Everyone draws a permutation of their own.",
    ),
    Section(
        "JSB Chorales",
        "jsb",
        "loss",
        "nats a frame",
        published=((f"LSTM, GRU, RNN ({BAI})", "8.45, 8.43, 8.91"),),
    ),
    Section("Piano-midi.de", "piano", "loss", "nats a frame"),
    Section(
        "Penn Treebank, characters",
        "ptb",
        "bits",
        "bits a character",
        published=((f"LSTM, GRU, RNN with 3 million parameters ({BAI})", "1.36, 1.37, 1.48"),),
        remark="Factors of size 4 and 128 hold 16 times fewer numbers than dense matrices. Smaller "
        "ones learn more slowly: `kru-ref train characters --updates 1000 --factors 4 4 128 128 "
        "--rate 2e-2 --factor-rate 1e-2` ends at 1.77 bits on validation data, `--factors 8 8 64 "
        "64 --rate 2e-2 --factor-rate 2e-2` at 1.84, `--factors 16 16 32 32 --rate 3e-2 "
        "--factor-rate 3e-2` at 1.86.",
    ),
    Section(
        "TIMIT, a sample of 16 speakers",
        "timit",
        "frame_error",
        "frame error, %",
        scale=100,
        remark="128 sentences, split by speaker; not comparable with results on all of TIMIT. The "
        "classes are 39, and frames of the glottal stop are left out.",
    ),
]


def record(folder):
    """Turn a run's folder into a file of what was recorded."""
    try:
        found = record_of(folder)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    path = RECORDED / f"{found['recipe']}-{found['seed']}.json"
    path.write_text(json.dumps(found) + "\n")
    print(path)


def figure(value, metric):
    """Write a number so that what counts can be read."""
    if metric == "bits":
        return f"{value:.3f}"
    return f"{value:.3g}" if metric == "loss" and value < 1 else f"{value:.2f}"


def table(section, runs):
    """Return the rows of a section."""
    rows = [
        f"| model | N | recurrent parameters | all parameters | {section.unit} | updates "
        "| minutes | computed by | seed | command |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for run in runs:
        test = run["last"].get(f"test_{section.metric}")
        partial = run["updates"] < run["planned_updates"]
        if test is None:  # a run that has not ended
            key = f"validation_{section.metric}"
            test = next((line[key] for line in run["curve"][::-1] if key in line), float("nan"))
            partial = True
        shown = figure(section.scale * test, section.metric) + " (partial)" * partial
        command = f"kru-ref reproduce {run['recipe']} --seed {run['seed']}"
        updates = f"{run['updates']:,}" + (f" of {run['planned_updates']:,}" if partial else "")
        by = run["computed"]
        by = f"{by['kru_ref']}, {by['instruction_set'] or 'NumPy'}" if by else ""
        stem = section.recipes.removesuffix("-kru")
        name = run["recipe"].removeprefix(stem).strip("-").replace("kru", "KRU")
        rows.append(
            f"| {name} | {run['settings']['hidden_size']} | {run['recurrent_parameters']:,} "
            f"| {run['parameters']:,} | {shown} | {updates} | {run['seconds'] / 60:.1f} "
            f"| {by} | {run['seed']} | `{command}` |"
        )
    for who, value in section.published:
        rows.append(f"| *published: {who}* | | | | *{value}* | | | | | |")
    if section.baseline is not None:
        rows.append(
            f"| *baseline: {section.baseline[0]}* | | | | {section.baseline[1]} | | | | | |"
        )
    return rows


def learned_and_frozen(sections, ridge):
    """Return the rows of a table: learned matrices beside frozen ones, over the seeds of both.

    Where a metric spans orders of magnitude means are geometric, and the difference is a factor.
    """
    rows = [
        "| network | measured in | seeds | learned | frozen | learned less frozen, 95 % "
        "| reservoir |",
        "|---|---|---|---|---|---|---|",
    ]
    for section, runs in sections:
        key = f"test_{section.metric}"
        found = {(run["recipe"], run["seed"]): run["last"].get(key) for run in runs}
        for recipe in dict.fromkeys(run["recipe"] for run in runs):
            pairs = [
                (value, found[f"{recipe}-frozen", seed])
                for (name, seed), value in found.items()
                if name == recipe and found.get((f"{recipe}-frozen", seed)) and value
            ]
            if pairs:
                cells = [recipe, section.unit, str(len(pairs)), *compared(section, pairs)]
                own = [of for of in ridge if of["recipe"] == recipe]
                values = [
                    section.scale * of["test"] for of in own if of["metric"] == section.metric
                ]
                cells.append(figure(np.mean(values), section.metric) if values else "")
                rows.append(f"| {' | '.join(cells)} |")
    return rows


def compared(section, pairs):
    """Return the means of pairs and what lies between them, with an interval if there are seeds."""
    learned, frozen = section.scale * np.array(pairs).T
    if section.logarithmic:
        means = [figure(np.exp(np.log(each).mean()), section.metric) for each in (learned, frozen)]
        low, middle, high = np.exp(interval(np.log(learned / frozen)))
        between = f"× {middle:.2g}" + (f" ({low:.2g} to {high:.2g})" if len(pairs) > 1 else "")
    else:
        means = [figure(each.mean(), section.metric) for each in (learned, frozen)]
        low, middle, high = interval(learned - frozen)
        between = f"{middle:+.3f}" + (f" ({low:+.3f} to {high:+.3f})" if len(pairs) > 1 else "")
    return *means, between


def interval(differences):
    """Return the mean of paired differences between the ends of its 95 % interval, Student's."""
    mean, n = differences.mean(), len(differences)
    if n < 2:
        return mean, mean, mean
    half = scipy.stats.t.ppf(0.975, n - 1) * differences.std(ddof=1) / np.sqrt(n)
    return mean - half, mean, mean + half


def draw(section, runs, path):
    """Draw a line for each run: the metric on held-out data against updates."""
    fig, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    styles = ["-", "--", ":", "-."]
    models = list(dict.fromkeys(run["recipe"] for run in runs))
    for run in runs:
        key = f"validation_{section.metric}"
        points = [(line["step"], section.scale * line[key]) for line in run["curve"] if key in line]
        if not points:
            continue
        k = models.index(run["recipe"])
        first = run is next(other for other in runs if other["recipe"] == run["recipe"])
        axes.plot(
            *zip(*points, strict=True),
            styles[k % 4],
            color=str(0.15 * (k % 5)),
            linewidth=1 + k // 4,
            label=run["recipe"] if first else None,
        )
    if section.logarithmic:
        axes.set_yscale("log")
        axes.axhline(runs[0]["baseline"], color="0.7", linewidth=0.8, label="baseline")
    axes.set(xlabel="updates", ylabel=f"{section.unit}, validation")
    axes.legend(fontsize="small")
    fig.savefig(path, dpi=100)
    plt.close(fig)


def draw_penalty(runs, path):
    """Draw error and defect against the strength of the penalty; return the rows of a table."""
    study = {}
    for run in sorted(runs, key=lambda run: (float(run["recipe"].split("-")[1]), run["seed"])):
        study.setdefault(float(run["recipe"].split("-")[1]), []).append(run)
    fig, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
    for key, marker, line, color, label in (
        ("test_loss", "o", "-", "0", "test error (mean squared)"),
        ("defect", "s", "--", "0.5", "defect ‖WᴴW - I‖₂"),
    ):
        found = [[run["last"][key] for run in seeds] for seeds in study.values()]
        medians = [np.median(each) for each in found]
        axes.plot(list(study), medians, line, color=color, label=label)
        for strength, each in zip(study, found, strict=True):
            axes.plot([strength] * len(each), each, marker, color=color, markersize=3)
    axes.set_xscale("symlog", linthresh=1e-5)
    axes.set_yscale("log")
    axes.set(xlabel="strength λ of the penalty", ylabel="adding, T = 100, N = 128")
    axes.legend(fontsize="small", title="median of the seeds")
    fig.savefig(path, dpi=100)
    plt.close(fig)
    rows = ["| λ | mean squared error | defect | seed | command |", "|---|---|---|---|---|"]
    for strength, seeds in study.items():
        for run in seeds:
            command = f"kru-ref reproduce {run['recipe']} --seed {run['seed']}"
            error, defect = run["last"]["test_loss"], run["last"]["defect"]
            rows.append(
                f"| {strength:g} | {error:.2g} | {defect:.2g} | {run['seed']} | `{command}` |"
            )
    return rows


def classification():
    """Return the section on public sets, whose table classification.py writes."""
    intro, found = (HERE / "results" / f"classification{end}.md" for end in ("_introduction", ""))
    return [
        "## Public sets of sequences\n",
        intro.read_text(),
        found.read_text(),
        "![ranks, and who does not differ](benchmarks/results/classification.png)\n",
    ]


def write(path):
    """Write RESULTS.md from all that was recorded."""
    runs = recorded()
    text = [(HERE / "results" / "introduction.md").read_text()]
    text.append("## The paper's tables and figures\n")
    for option, tables in (("table", paper.TABLES), ("figure", paper.FIGURES)):
        for number, table_of_paper in tables.items():
            text += [f"`kru-ref reproduce --{option} {number}`\n"]
            text += [*paper.lines(table_of_paper, runs), "", REMARKS[option, number], ""]
    shown = []
    for section in SECTIONS:
        own = [run for run in runs if run["recipe"].startswith(section.recipes)]
        # "copying-1000" is not "copying-10000"
        own = [run for run in own if run["recipe"][len(section.recipes) :][:1] in ("", "-")]
        if not own:
            continue
        shown.append((section, own))
        picture = HERE / "results" / f"{section.recipes}.png"
        draw(section, own, picture)
        text += [f"## {section.title}\n", *table(section, own), ""]
        if section.remark:
            text += [section.remark, ""]
        text.append(f"![{section.title}: learning curves](benchmarks/results/{picture.name})\n")
    ridge = json.loads((HERE / "results" / "ridge_readout.json").read_text())
    text += ["## What learning the recurrence adds\n", *learned_and_frozen(shown, ridge), ""]
    text.append(
        "*reservoir* is the network as it was drawn, with nothing learned but a ridge regression "
        "on its states: `python benchmarks/ridge_readout.py --json "
        "benchmarks/results/ridge_readout.json` (tone and copying so far). Intervals are "
        "Student's, of the differences of equal seeds.\n"
    )
    text.append(
        "It decides where the task asks for one eigenvalue that a random spectrum does not have: "
        "the tone, where nothing linear in the states of sixteen random eigenvalues (five draws) "
        "comes below nine tenths of the baseline, as a test computes exactly, and learned ones "
        "come near a matched filter. On copying over 1,000 steps that ridge recalls none of the "
        "ten symbols (three seeds), where frozen factors with U, b and the readout learned recall "
        "99.7 % of them or more: what must be learned there "
        "is not W, but more than the readout.\n"
    )
    text.append(
        "On text, where the network has to choose what it keeps, a fifth of a bit. On copying the "
        "learned factors end lower than their frozen twins for each of nine seeds, by 1.5 to 31 "
        "times, where both are far below what the task asks. Elsewhere next to nothing. On pixels "
        "it adds less than another seed does (0.7 points): nothing over equally spaced eigenvalues "
        "(two seeds), half a point over Haar-random ones read in order (96.40 %, and 95.89 % with "
        "`--factor-rate 0`; one seed; the table has the equally spaced), and a tenth where they "
        "are permuted. "
        "72 of 12,882 parameters are in W there, and U, b and the readout learn what is learned. "
        "Copying and adding ask for a memory, and a unitary matrix that nothing has trained is one "
        "where its eigenvalues are well separated; on adding, "
        "JSB, Piano-midi.de and the sample of TIMIT the difference has either sign.\n"
    )
    study = [run for run in runs if run["recipe"].startswith("penalty-")]
    if study:
        text.append("## The strength of the penalty\n")
        text.append(
            "Adding, T = 100, N = 128, 5,000 updates (half of what the task takes by default); the "
            "defect is ‖W^H W - I‖₂ after training, 0 for a unitary W.\n"
        )
        text += [*draw_penalty(study, HERE / "results" / "penalty.png"), ""]
        text.append(
            "Over six orders of magnitude of λ the defect falls by more than three. The error "
            "moves with λ no more than three seeds move by themselves (±0.54 in the logarithm from "
            "λ to λ, ±0.84 from seed to seed: notebook 6 computes both); the two runs that had not "
            "yet learned have λ of 0 and 0.01.\n"
        )
        text.append("![error and defect against the penalty](benchmarks/results/penalty.png)\n")
    text += classification()
    path.write_text("\n".join(text))
    print(path)


def main():
    """Record the runs given, then write the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs")
    arguments = parser.parse_args()
    for folder in arguments.runs:
        record(folder)
    write(HERE.parent / "RESULTS.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
