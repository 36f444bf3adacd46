"""Entry point of ``kru-ref`` and of ``python -m kru_ref``."""

import sys

from . import interrupts


def main() -> int:
    """Run the command line, or say what it needs."""
    restore = interrupts.catch()
    try:
        from . import cli

        status = cli.main()
    except ImportError as error:
        print(f"kru-ref: {error}", file=sys.stderr)
        status = 1
    except KeyboardInterrupt:
        print("kru-ref: stopped", file=sys.stderr)
        status = 130
    # behind a first signal all others are ignored until the process has ended
    if status != 130:
        restore()
    return status


if __name__ == "__main__":
    sys.exit(main())
