"""Entry point of ``kru-ref`` and of ``python -m kru_ref``."""

import sys


def main() -> int:
    """Run the command line, or say what it needs."""
    try:
        from . import cli
    except ImportError as error:
        print(f"kru-ref: {error}", file=sys.stderr)
        return 1
    return cli.main()


if __name__ == "__main__":
    sys.exit(main())
