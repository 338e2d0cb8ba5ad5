"""``python -m popproxy``."""

from popproxy.run.cli import main

if __name__ == "__main__":
    raise SystemExit(main())
