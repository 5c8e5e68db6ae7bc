"""The handlers that superd ships: programs, each of which runs under any other inetd.

README.md in this folder is the contract: what a handler gets and what it owes. Nothing
here imports anything of superd but superd.handlers.
"""
