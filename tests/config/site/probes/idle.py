"""A module that is no handler."""

OPTIONS = {}
