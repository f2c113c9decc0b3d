"""One study under way: plan, ledger, Driver and progress put together."""
