"""Recurrent cells: forward over time, backward through time.

======  ===========  =========================================================
symbol  code         shape
======  ===========  =========================================================
T, B                 time steps, sequences in a batch
D       input_size   size of an input x_t
N       hidden_size  size of a hidden state h_t
x       ``x``        (T, D, B), or integers (T, B) that stand for one-hot columns
h       ``h``        (T, N, B): ``h[t-1]`` is h_t for t = 1 … T
h0      ``h0``       (N,) learned, (N, B) given: the state before the first step
W       ``W``        a recurrent matrix's parameters, see matrices.py
U, b    ``U, b``     (G N, D), (G N,): input weights and biases of G gates
======  ===========  =========================================================

A cell is a frozen description. Its parameters are a dict of arrays outside it, and
``forward`` returns all that ``backward`` needs.
"""

from ..arguments import check_params
from ..arrays import Params
from .cell import Cell, Saved, State
from .gru import GRU
from .lru import LRU
from .lstm import LSTM
from .rnn import KRU, RNN

__all__ = ["GRU", "KRU", "LRU", "LSTM", "RNN", "Cell", "Params", "Saved", "State", "check_params"]
