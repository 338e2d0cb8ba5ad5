"""policy: what a session may do, by user, group, network and time. docs/plugins/policy.md is its manual page."""
