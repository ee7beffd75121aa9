"""`python -m sidetune` is `sidetune`."""

from sidetune.cli.entry import main

main()
