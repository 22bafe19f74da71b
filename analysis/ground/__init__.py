"""What stands below every room: cards, kinds of numbers, generated files, text tables."""
