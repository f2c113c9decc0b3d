"""The ledger as measurements: what may be pooled, by kind of device, corrected for drift."""
