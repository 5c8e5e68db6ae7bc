"""Streams over non-blocking sockets in an event loop, for workers and handlers."""
