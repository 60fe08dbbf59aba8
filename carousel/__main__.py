"""`python -m carousel`."""

from carousel.command import main

main()
