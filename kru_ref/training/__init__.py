"""The training of networks on tasks, and the command line."""
