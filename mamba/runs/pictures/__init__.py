"""Pictures of the report, built of what `figures` gives out."""
