"""What a diff feeds."""
