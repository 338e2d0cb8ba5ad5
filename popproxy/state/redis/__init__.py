"""The store of a fleet, in Redis or Valkey. Import ``store`` only when it is used: it needs the extra ``redis``."""
