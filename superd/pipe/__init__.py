"""The command superd-pipe: a shell pipeline whose pipes are TCP streams between hosts."""
