"""The master: system calls, no policy. One thread; one file per verb."""
