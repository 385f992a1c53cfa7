"""Learning from a teacher: the extension of recipes that make a small model of a large one."""
