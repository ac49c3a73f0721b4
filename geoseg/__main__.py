"""`python -m geoseg` is the command line."""

from geoseg.cli import main

main()
