"""Network: events from programs that cannot write streams, over HTTP, TCP and UDP."""
