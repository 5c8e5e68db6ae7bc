"""superd: the superserver. One YAML file, one master, any program as a service."""

__version__ = "0.1.0"
