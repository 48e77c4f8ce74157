"""Whole plans in simulation: margins by search, tables and pictures."""
