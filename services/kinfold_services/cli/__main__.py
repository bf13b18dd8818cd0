"""`python -m kinfold_services.cli`."""

from kinfold_services.cli import main

main()
