"""What Millstream says about itself: its own log lines and counters."""
