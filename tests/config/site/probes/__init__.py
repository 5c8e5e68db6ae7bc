"""A package that must not be imported by whoever looks at its handlers."""

raise RuntimeError("the package of a handler was imported")
