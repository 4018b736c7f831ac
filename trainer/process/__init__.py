"""One training process: signals, the watchdog, the lock and the status of its run."""
