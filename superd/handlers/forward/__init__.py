"""Forward HTTP requests: one file for each step, as superd/handlers/http/ has.

What decides is apart from what connects: nothing here but the shell opens a socket.
"""
