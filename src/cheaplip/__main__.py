"""`python -m cheaplip`."""

from .cli import main

main()
