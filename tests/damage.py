"""Files damaged at random, and what their readers may do."""

import tracemalloc

from hypothesis import settings
from hypothesis import strategies as st

FUZZ = settings(max_examples=150)


@st.composite
def damaged(draw, content):
    """Draw a file with bytes changed, cut, doubled or put in."""
    content = bytearray(content)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, max(0, len(content) - 1)))
        kind = draw(st.sampled_from(["change", "cut", "insert", "huge"]))
        if kind == "change" and content:
            content[at] = draw(st.integers(0, 255))
        elif kind == "cut":
            del content[at : at + draw(st.integers(1, 2000))]
        elif kind == "insert":
            content[at:at] = draw(st.binary(max_size=20))
        else:
            content[at : at + 4] = b"\xff\xff\xff\x7f"
    return bytes(content)


def reads_or_says_why(read, path, content, valid):
    """Read, or raise a ValueError that names the file; never with much memory."""
    path.write_bytes(content)
    why = None
    tracemalloc.start()
    try:
        valid(read(path))
    except ValueError as error:
        why = str(error)
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert why is None or str(path) in why
    assert peak < 60 * len(content) + 2_000_000
