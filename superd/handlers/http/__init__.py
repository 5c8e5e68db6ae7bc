"""The parts of the HTTP server, from the bytes of a request to the bytes of an answer.

request, target, response and media are pure; files touches the disk, connection the
socket. A part imports those before it, never the other way.
"""
