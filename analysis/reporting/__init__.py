"""The report to look at: figures and tables of stored campaigns, on one page."""
