"""report.html and plots of a run."""
