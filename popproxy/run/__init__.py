"""FLOOR 5: the process: command line, admin HTTP, logging set-up, supervisor."""
