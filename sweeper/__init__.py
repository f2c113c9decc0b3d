"""Within this many parameters, on these devices, which transformer shape should be trained?"""

__version__ = "0.1.0"
