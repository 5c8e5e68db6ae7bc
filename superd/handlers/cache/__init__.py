"""Keep answers and give them again (RFC 9111), as a cache that everybody shares.

What decides is apart from what keeps: the decisions are functions of what was received
and of `now`. They open no file and ask no clock.
"""
