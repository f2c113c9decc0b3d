"""The result as people read it: terminal tables, figures, one HTML page."""
