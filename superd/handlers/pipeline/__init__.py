"""What the command superd-pipe and the handler `pipe` share: programs, joints, frames."""
