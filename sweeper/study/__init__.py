"""What is asked: the study's schema, its YAML with line numbers, presets and profiles."""
