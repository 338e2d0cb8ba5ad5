"""First-party plugins. They import ``popproxy.api`` and are found by entry points, as a stranger's would be."""
