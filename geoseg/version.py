"""The version of the package: files, messages and the package index have it from here."""

VERSION = "0.1.0"
