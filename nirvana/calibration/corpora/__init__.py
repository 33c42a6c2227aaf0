"""Text sources: built-in corpora, data sets of the hub, files and uploads. A built-in corpus is one file here."""
