"""The transformer that trials train: its shape's arithmetic, its modules, precision and compilation."""
