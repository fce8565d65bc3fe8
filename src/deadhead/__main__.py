"""Run the command as `python -m deadhead`."""

from deadhead.cli import main

main()
