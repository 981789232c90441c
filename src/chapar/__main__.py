"""`python -m chapar` is the command `chapar`."""

from chapar.cli import main

main()
