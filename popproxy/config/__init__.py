"""FLOOR 3: what the operator wrote, checked and compiled to a Plan. Never a global, never re-read."""
