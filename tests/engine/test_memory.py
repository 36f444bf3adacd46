"""Large memory: used again once nobody holds it, and never before."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import kru_ref as kru
from kru_ref.engine import backend, memory

if backend.kernels is None:
    pytest.skip(f"{backend.reason}", allow_module_level=True)


BYTE = np.dtype("uint8")


@pytest.fixture
def shelf():
    """Start with an empty shelf; return the kernels."""
    backend.kernels.keep_at_most(0)
    backend.kernels.keep_at_most(memory.MOST_KEPT)
    return backend.kernels


def address_of(a):
    return a.__array_interface__["data"][0]


def test_large_memory_is_used_again(shelf):
    a = memory.aligned_empty((memory.LARGE // 8 + 1,), np.dtype("float64"))
    where, size = address_of(a), a.nbytes
    assert where % 64 == 0
    assert a.flags.writeable
    assert shelf.bytes_on_shelf() == 0
    del a
    assert shelf.bytes_on_shelf() >= size
    for other in (size // 2, size + 1000):  # by far too small, and larger
        assert address_of(memory.aligned_empty((other,), BYTE)) != where
    again = memory.aligned_empty((size // 8,), np.dtype("complex64"))
    assert address_of(again) == where


@pytest.mark.parametrize("view", [lambda a: a[3:5, ::2], lambda a: a.T, memoryview, np.asarray])
def test_memory_is_not_used_again_while_a_view_of_it_is_held(shelf, view):
    a = memory.aligned_empty((4, memory.LARGE), BYTE)
    a[...] = 7
    where, held = address_of(a), view(a)
    del a
    assert shelf.bytes_on_shelf() == 0
    other = memory.aligned_empty((4, memory.LARGE), BYTE)
    other[...] = 9
    assert (np.asarray(held) == 7).all()
    del held
    assert shelf.bytes_on_shelf() > 0
    assert address_of(memory.aligned_empty((4, memory.LARGE), BYTE)) == where


@pytest.mark.parametrize("cell", [kru.KRU(3, 64), kru.LSTM(3, 64, kru.Kronecker())])
def test_a_result_outlives_later_calls(rng, cell):
    """It did not, where it had been handed back as memory for a later one."""
    params, x = cell.init(rng), rng.standard_normal((2, 60, 3, 40))
    assert memory.LARGE <= 60 * 64 * 40 * 4
    h, saved = cell.forward(params, x[0])
    last, copies = h[-1], [part.copy() for part in (*saved.states, saved.gates)]
    expected = cell.backward(params, saved, h)
    del h
    for _ in range(3):
        h, other = cell.forward(params, x[1])
        cell.backward(params, other, h)
    for part, copy in zip((*saved.states, saved.gates), copies, strict=True):
        np.testing.assert_array_equal(part, copy)
    np.testing.assert_array_equal(cell.backward(params, saved, copies[0])[1], expected[1])
    del saved, other, h
    cell.forward(params, x[1])
    np.testing.assert_array_equal(last, copies[0][-1])


def test_no_more_than_a_limit_is_kept(shelf):
    size, limit = memory.LARGE, 10 * memory.LARGE
    shelf.keep_at_most(limit)
    held = [memory.aligned_empty((size,), BYTE) for _ in range(30)]
    first = address_of(held[0])
    while held:
        del held[0]
        assert shelf.bytes_on_shelf() <= limit
    assert shelf.bytes_on_shelf() > limit - 2 * size
    again = [memory.aligned_empty((size,), BYTE) for _ in range(9)]
    assert first not in map(address_of, again)  # the oldest had to go
    del again
    before = shelf.bytes_on_shelf()
    memory.aligned_empty((2 * limit,), BYTE)  # not kept, and nothing else goes for it
    assert shelf.bytes_on_shelf() == before
    shelf.keep_at_most(0)
    assert shelf.bytes_on_shelf() == 0
    shelf.keep_at_most(memory.MOST_KEPT)
    held = [memory.aligned_empty((size,), BYTE) for _ in range(40)]
    del held
    assert 10 * size < shelf.bytes_on_shelf() < 20 * size  # nor too many small ones


def test_threads_do_not_share_memory(shelf):
    wrong = []

    def use(number):
        rng = np.random.default_rng(number)
        for _ in range(200):
            a = memory.aligned_empty((int(rng.integers(1, 4)), memory.LARGE), BYTE)
            a[...] = number
            b = memory.aligned_empty(a.shape, BYTE)
            b[...] = 100 + number
            if not ((a == number).all() and (b == 100 + number).all()):
                wrong.append(number)

    threads = [threading.Thread(target=use, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert shelf.bytes_on_shelf() <= memory.MOST_KEPT


FORKED_MEMORY = """
import os, numpy as np
from kru_ref.engine import backend, memory
def make(value):
    a = memory.aligned_empty((memory.LARGE,), np.dtype("float64"))
    a[...] = value
    return a
held = make(1)
make(2)
assert backend.kernels.bytes_on_shelf() > 0
child = os.fork()
more = [make(3 + (child == 0)) for _ in range(3)]
right = (held == 1).all() and all((a == 3 + (child == 0)).all() for a in more)
del more
assert right and backend.kernels.bytes_on_shelf() > 0
if child:
    assert os.waitpid(child, 0)[1] == 0
kept_until_the_end = [held, backend.kernels.Memory(10**6)]
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_memory_after_a_fork_and_at_exit():
    run = [sys.executable, "-P", "-W", "ignore", "-c", FORKED_MEMORY]
    done = subprocess.run(run, check=True, timeout=600, capture_output=True, text=True)
    assert done.stderr == ""
