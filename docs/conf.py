"""Sphinx configuration. Build: pip install sphinx myst-parser furo; sphinx-build -W docs build/docs"""

project = "backupctl"
author = "the backupctl contributors"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "backupctl"
myst_heading_anchors = 3
# links to files of the project outside docs/ are for readers of the source tree
suppress_warnings = ["myst.xref_missing"]
exclude_patterns = ["_build"]
