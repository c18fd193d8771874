"""Tables, plots and a page from run folders. Reads files only and never imports torch."""

from .aggregate import Estimate, Row, summary_table
from .run_page import write_report
from .tables import csv_table, json_table, markdown_table, print_summary

__all__ = [
    "Estimate",
    "Row",
    "csv_table",
    "json_table",
    "markdown_table",
    "print_summary",
    "summary_table",
    "write_report",
]
