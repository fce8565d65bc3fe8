"""Display: how numbers, names, head maps and objects are shown. Knows strings only."""
