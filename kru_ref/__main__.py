"""Entry point of ``kru-ref`` and of ``python -m kru_ref``."""

import sys


def main() -> int:
    """Run the command line, or say what it needs."""
    try:
        from . import cli

        return cli.main()
    except ImportError as error:
        print(f"kru-ref: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("kru-ref: stopped", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
