"""What operators are shown, held against what our services tell."""
