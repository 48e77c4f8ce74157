"""The loop that keeps a plan true: it watches a fleet, decides by stated rules, and rolls out."""
