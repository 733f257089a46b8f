"""One module a subcommand of `psad`: `HELP`, `add_arguments(parser)` and `run(arguments)`.

Modules here import nothing heavy at the top, so that `psad --help` and a wrong option answer at once.
"""
