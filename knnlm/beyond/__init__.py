"""What came after the paper: follow-up methods and diagnostics, computed from what a finished study keeps."""
