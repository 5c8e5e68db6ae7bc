"""Pass a connection, or the datagrams of many peers, on to another address.

`redirect.py` brings the files of this folder together, one for each part of the work: what
an address is, which backend is next, how it is reached, and how bytes go both ways.
"""
