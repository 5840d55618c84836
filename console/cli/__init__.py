"""The command line: one module per verb or noun, found by main.py and imported only when called."""
