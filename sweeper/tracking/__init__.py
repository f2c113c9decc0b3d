"""The ledger projected into MLflow's store, and into Optuna's."""
