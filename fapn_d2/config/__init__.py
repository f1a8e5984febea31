"""Keys with their defaults, loading of YAML files, and the hash of a config."""
