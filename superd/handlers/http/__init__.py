"""The parts of the HTTP server, from the bytes of a request to the bytes of an answer.

request, target, response, media, conditional, ranges, listing and extra are pure; root,
files, folder and answer touch the disk; connection leads the talk, but has no socket, and
part is a step of it. A part imports those before it, never the other way.
"""
