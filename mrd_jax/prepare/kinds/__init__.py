"""Holds the kinds of datasets: `python -m mrd_jax.prepare NAME` is NAME.py here.

A kind is a module with a first line that --help shows, `add_flags(parser)` and
`run(args)`, which returns what to print; of a kind with --output the command
then says where it wrote to.  What takes long to import is imported when it runs.
"""
