"""Named runs behind the tables of RESULTS.md: task, model and settings of each.

A name is task, model, and what is special: ``copying-1000-kru``, ``copying-1000-kru-frozen``.
``frozen`` is the same run with the recurrent matrices left as they were drawn.
"""

import dataclasses
from typing import Any

from .tasks import Adding, Characters, Copying, Music, Phonemes, Pixels, Task

_FROZEN: dict[str, Any] = {"factor_rate": 0.0}
# A dense matrix has no factors and no way to draw them, an LSTM no activation of its own.
_DENSE: dict[str, Any] = {"matrix": "dense", "factors": None, "init": None}
_LSTM: dict[str, Any] = _DENSE | {"cell": "lstm", "activation": None}
_RNN: dict[str, Any] = _DENSE | {"activation": "tanh", "dtype": "float32", "penalty": 0.0}


def _with_baselines(name: str, kru: Task, **others: dict[str, Any]) -> dict[str, Task]:
    """Return a run of the KRU, the same with frozen factors, and other models beside it."""
    runs = {name: kru, f"{name}-frozen": dataclasses.replace(kru, **_FROZEN)}
    stem = name.removesuffix("-kru").removesuffix("-kru-lstm")
    for model, settings in others.items():
        runs[f"{stem}-{model}"] = dataclasses.replace(kru, **settings)
    return runs


def _copying(delay: int, **settings: Any) -> Copying:
    return Copying(
        delay=delay,
        # the gradient of a factor grows with the steps it acts in
        factor_rate=1e-3 / delay,
        # one of three Haar-random draws is far from done after ten times the updates
        init="spread",
        # a constant rate, once the task is solved, now and then throws it off again
        schedule="cosine",
        max_norm=1.0,
        evaluate_every=100,
        checkpoint_every=100,
        **settings,
    )


def _music(name: str, **settings: Any) -> dict[str, Task]:
    """Return the runs of a collection behind Table 4, learned and frozen."""
    kru = Music(
        cell="rnn",
        dtype="float32",
        activation="tanh",
        hidden_size=100,
        factors=((2, 2), (2, 2), (5, 5), (5, 5)),
        rate=2e-2,
        factor_rate=6e-3,
        dropout=0.1,
        **settings,
    )
    lstm = dataclasses.replace(
        kru,
        cell="lstm",
        activation=None,
        hidden_size=45,
        factors=((3, 3), (3, 3), (5, 5)),
        rate=4e-2,
        factor_rate=4e-2,
    )
    return {
        **_with_baselines(f"{name}-kru-100", kru),
        **_with_baselines(f"{name}-kru-lstm-45", lstm),
        f"{name}-rnn-100": dataclasses.replace(kru, **_RNN | {"rate": 1e-2, "factor_rate": 3e-3}),
        f"{name}-lstm-36": dataclasses.replace(
            lstm, **_LSTM | {"hidden_size": 36, "rate": 2e-2, "factor_rate": 2e-2}
        ),
    }


_COPYING_BASELINES = {"rnn": _RNN | {"factor_rate": 1e-3}, "lstm": _LSTM | {"factor_rate": 1e-3}}

RECIPES: dict[str, Task] = {
    **_with_baselines(
        "copying-1000-kru",
        _copying(1000, updates=1000),
        **_COPYING_BASELINES,
        restricted=_DENSE | {"matrix": "restricted", "factor_rate": 1e-4},
        full=_DENSE | {"matrix": "full", "factor_rate": 1e-6},
    ),
    **_with_baselines("copying-2000-kru", _copying(2000, updates=2000), **_COPYING_BASELINES),
    # a bias of modReLU that moves by its rate once has forgotten all within 10,000 steps
    **_with_baselines(
        "copying-10000-kru",
        _copying(10_000, updates=1000, activation="identity"),
        **_COPYING_BASELINES,
    ),
    **_with_baselines(
        "adding-750-kru",
        Adding(
            length=750,
            first_length=100,
            hidden_size=512,
            updates=16_000,
            # at 1e-3, clipped at 1, what was found on short sequences is lost as they grow
            factor_rate=5e-4,
            max_norm=0.1,
        ),
        lstm=_LSTM | {"rate": 1e-3, "factor_rate": 1e-3, "updates": 2000},
    ),
    **_with_baselines(
        "pixels-kru",
        Pixels(updates=8250, init="spread", schedule="cosine", max_norm=1.0, evaluate_every=550),
    ),
    **_with_baselines(
        "pixels-permuted-kru",
        Pixels(permute=True, updates=8250, schedule="cosine", max_norm=1.0, evaluate_every=550),
    ),
    **_with_baselines(
        "jsb-kru-lstm",
        Music(updates=800, dropout=0.6, rate=5e-3, factor_rate=5e-3),
        lstm=_LSTM
        | {
            "updates": 600,
            "dropout": 0.5,
            "rate": 3e-3,
            "factor_rate": 3e-3,
        },
    ),
    **_with_baselines(
        "piano-kru-lstm",
        Music(
            data="piano-midi",
            excerpt=200,
            updates=500,
            dropout=0.6,
            rate=5e-3,
            factor_rate=5e-3,
            evaluate_every=50,
        ),
        lstm=_LSTM
        | {
            "updates": 400,
            "dropout": 0.5,
            "rate": 3e-3,
            "factor_rate": 3e-3,
        },
    ),
    # Table 4 of the paper at its sizes
    **_music("jsb", updates=600),
    **_music("piano", data="piano-midi", excerpt=200, updates=500),
    **_with_baselines(
        "ptb-kru-lstm",
        # validation bits after 1,000 updates: 1.86 with factors of size 16 and 32, 1.84 with 8
        # and 64, 1.77 with these; the rates can be a multiple of the dense network's
        Characters(factors=((4, 4), (128, 128)), updates=8000, rate=2e-2, factor_rate=1e-2),
        lstm=_LSTM | {"updates": 5000, "rate": 5e-3, "factor_rate": 5e-3},
    ),
    **_with_baselines(
        "timit-kru-lstm",
        Phonemes(updates=100, dropout=0.8, rate=1e-2, factor_rate=1e-2),
        lstm=_LSTM | {"rate": 3e-3, "factor_rate": 1e-3},
    ),
    # the study of the penalty: seven strengths over six orders of magnitude, and none
    **{
        f"penalty-{strength:g}": Adding(length=100, updates=5000, penalty=strength)
        for strength in (0.0, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0, 100.0)
    },
}
