"""report.html: one page that explains a bundle to people, from its files, without network or scripts."""

from toolkit.report.build import build_report, write_report

__all__ = ["build_report", "write_report"]
