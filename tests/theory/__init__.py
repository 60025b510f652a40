"""docs/theory.md, checked: one file a section, by enumeration over small spaces, in float64."""
