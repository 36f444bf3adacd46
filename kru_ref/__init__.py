"""Kronecker Recurrent Units in NumPy and Cython, with gradients you can check."""

__version__ = "0.2.0"

# first: it lets Ctrl-C end the command without a traceback while all else is imported
from .training import interrupts as interrupts  # isort: skip
from .cells import GRU, KRU, LRU, LSTM, RNN
from .checks.adjoints import Jacobian, check_adjoint
from .checks.gradients import assert_gradient, check_gradient
from .checks.rtrl import RealTimeLearning, rtrl
from .engine.backend import show_config
from .exchange.pytorch import from_pytorch, to_pytorch
from .kronecker import (
    KroneckerProduct,
    factor_sizes,
    kron_matvec,
    kron_matvec_backward,
    kron_matvec_jvp,
)
from .losses import bernoulli_cross_entropy, mean_squared_error, softmax_cross_entropy
from .matrices import Dense, Diagonal, FullUnitary, Kronecker
from .model import SequenceModel
from .optimizers import SGD, Adam, RMSprop, clip_by_global_norm
from .restricted import RestrictedUnitary
from .unitary import random_unitary, soft_unitary, spread_unitary, unitarity_defect

__all__ = [
    "GRU",
    "KRU",
    "LRU",
    "LSTM",
    "RNN",
    "SGD",
    "Adam",
    "Dense",
    "Diagonal",
    "FullUnitary",
    "Jacobian",
    "Kronecker",
    "KroneckerProduct",
    "RMSprop",
    "RealTimeLearning",
    "RestrictedUnitary",
    "SequenceModel",
    "assert_gradient",
    "bernoulli_cross_entropy",
    "check_adjoint",
    "check_gradient",
    "clip_by_global_norm",
    "factor_sizes",
    "from_pytorch",
    "kron_matvec",
    "kron_matvec_backward",
    "kron_matvec_jvp",
    "mean_squared_error",
    "random_unitary",
    "rtrl",
    "show_config",
    "soft_unitary",
    "softmax_cross_entropy",
    "spread_unitary",
    "to_pytorch",
    "unitarity_defect",
]
