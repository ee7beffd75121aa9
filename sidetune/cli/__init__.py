"""The command line: the library's verbs, bars and tables."""
