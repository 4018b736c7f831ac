"""Parts of the HTML pages of all packages: template, tables, audio."""
