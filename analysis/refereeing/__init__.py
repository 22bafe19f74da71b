"""Holds estimators against measurements: their answers, errors by term, what a wrong term assumes, rankings."""
