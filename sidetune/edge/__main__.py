"""`python -m sidetune.edge`: `sidetune edge` for a device that has NumPy and safetensors and nothing else."""

import sys

from sidetune.edge.cli import main

main(sys.argv[1:])
