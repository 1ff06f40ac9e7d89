"""What every protocol does with its scores: statistics, tables, costs."""
