"""The bench: this server's limit, and how much of it Millstream reaches."""
