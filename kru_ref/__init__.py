"""Kronecker Recurrent Units in NumPy and Cython, with gradients you can check."""

__version__ = "0.1.0"

from .backend import show_config
from .cells import KRU, RNN
from .gradients import check_adjoint, check_gradient
from .kronecker import KroneckerProduct, factor_sizes, kron_matvec, kron_matvec_backward
from .losses import bernoulli_cross_entropy, mean_squared_error, softmax_cross_entropy
from .matrices import Dense, Kronecker
from .model import SequenceModel
from .optimizers import SGD, Adam, RMSprop, clip_by_global_norm
from .unitary import random_unitary, soft_unitary, unitarity_defect

__all__ = [
    "KRU",
    "RNN",
    "SGD",
    "Adam",
    "Dense",
    "Kronecker",
    "KroneckerProduct",
    "RMSprop",
    "SequenceModel",
    "bernoulli_cross_entropy",
    "check_adjoint",
    "check_gradient",
    "clip_by_global_norm",
    "factor_sizes",
    "kron_matvec",
    "kron_matvec_backward",
    "mean_squared_error",
    "random_unitary",
    "show_config",
    "soft_unitary",
    "softmax_cross_entropy",
    "unitarity_defect",
]
