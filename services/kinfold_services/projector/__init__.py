"""The projector: reads the log in order, folds it, and commits each batch in one transaction (contract section 8)."""
