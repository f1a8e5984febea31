"""The papers' tables: ledger, jobs, records and reports."""
