"""`python -m hsm_export` is `hsm-export`."""

from .cli import main

main()
