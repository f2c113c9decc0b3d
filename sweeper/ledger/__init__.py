"""The ledger: its file, its lines, and how several become one."""
