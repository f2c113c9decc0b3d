"""Run folders, or device types, side by side."""
