"""The wire: connections, scripts and replies. The only importer of redis."""
