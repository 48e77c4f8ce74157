"""`python -m ppipe` is `ppipe`."""

from ppipe.cli import main

main()
