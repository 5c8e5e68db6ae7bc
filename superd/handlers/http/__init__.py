"""The parts of the HTTP server, from the bytes of a request to the bytes of an answer.

request, target, response and media are pure; root, files and answer touch the disk;
connection leads the talk, but has no socket. A part imports those before it, never the
other way.
"""
