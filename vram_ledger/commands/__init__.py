"""The commands, a module a kind of question."""
