"""Figures that other people's cards and servers printed, and what is said of each today."""
