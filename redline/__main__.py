"""`python -m redline` is the command `redline`."""

from redline.cli.main import main

main()
