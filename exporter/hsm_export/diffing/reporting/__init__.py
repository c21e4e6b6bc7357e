"""Reports of a diff: HTML and Markdown for people, JSON and JUnit XML for programs, tables for the terminal."""

from __future__ import annotations

from .html import write_html
from .json_file import read_json, write_json
from .junit import write_junit
from .markdown import markdown
from .terminal import render

__all__ = ["markdown", "read_json", "render", "write_html", "write_json", "write_junit"]
