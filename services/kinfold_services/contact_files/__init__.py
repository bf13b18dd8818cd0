"""Contacts in files: reads rows of CSV and Parquet as events, and writes contacts as CSV, Parquet, JSON and tables."""
