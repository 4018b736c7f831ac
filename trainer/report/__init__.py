"""The report of a run: report.html and plots/."""
