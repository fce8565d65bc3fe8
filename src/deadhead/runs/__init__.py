"""Runs: from settings to one folder with everything in it; any run can be stopped and resumed."""
