"""What the HTML pages of all packages share."""
