"""What a run does. base.py holds every default; the others change what differs."""
