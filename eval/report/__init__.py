"""The report of an evaluation: report.html, and tables on the console."""
