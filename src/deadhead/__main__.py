"""Run the command as `python -m deadhead`."""

from deadhead_command import main

main()
