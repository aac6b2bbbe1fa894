"""The command line, one module a command; :mod:`counterview.cli.main` registers them."""
