"""The collection: its document and indexes, each write and read as data, the drivers and their errors."""
