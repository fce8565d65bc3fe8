"""Run the command as `python -m deadhead`.

Python imports the package first, and only the installed command hears Ctrl-C while it does.
"""

from deadhead_command import main

main()
