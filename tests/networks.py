"""Cells over matrices, and models of them, small enough for every check."""

import kru_ref as kru

N, D, M = 6, 2, 3


SHAPES = [(1, 1), (2, 3), (9, 2)]  # (T, B)


MATRICES = [
    kru.Dense(),
    kru.Kronecker(((1, 2), (2, 3), (3, 1)), "numpy"),
    kru.RestrictedUnitary(),
    kru.FullUnitary(),
]


CELLS = {
    **{
        f"rnn-{name}-{dtype}": lambda matrix, name=name, dtype=dtype: kru.RNN(
            D, N, matrix, name, dtype
        )
        for name, dtype in [
            ("modrelu", "float64"),
            ("tanh", "float64"),
            ("relu", "float64"),
            ("identity", "float64"),
            ("modrelu", "complex128"),
            ("identity", "complex128"),
        ]
    },
    **{
        f"rnn-{name}-{dtype}-leaky": lambda matrix, name=name, dtype=dtype: kru.RNN(
            D, N, matrix, name, dtype, leak=0.3
        )
        for name, dtype in [("tanh", "float64"), ("modrelu", "complex128")]
    },
    "lstm": lambda matrix: kru.LSTM(D, N, matrix, "float64"),
    "gru": lambda matrix: kru.GRU(D, N, matrix, "float64"),
}


def moved(cell_or_model, rng):
    params = cell_or_model.init(rng)
    return {name: p + rng.uniform(-0.2, 0.2, p.shape) for name, p in params.items()}


MODELS = {
    "last step": lambda backend: kru.SequenceModel(
        kru.KRU(D, N, dtype="complex128", backend=backend), M, last_only=True
    ),
    "complex": lambda backend: kru.SequenceModel(
        kru.KRU(D, N, ((1, 2), (2, 3), (3, 1)), dtype="complex128", backend=backend), M
    ),
    "layers": lambda backend: kru.SequenceModel(
        [
            kru.KRU(D, N, dtype="complex128", backend=backend),
            kru.LSTM(2 * N, 4, kru.Kronecker(backend=backend), "float64"),
            kru.GRU(4, N, kru.RestrictedUnitary(), "float64"),
        ],
        M,
        dropout=0.3,
    ),
}
