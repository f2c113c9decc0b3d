"""The ledger as measurements: what may be pooled, by device type, corrected for drift."""
