"""popproxy: a POP3 proxy and filter middleware."""

__version__ = "0.1.0"
