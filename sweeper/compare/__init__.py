"""Run folders, or kinds of device, side by side."""
