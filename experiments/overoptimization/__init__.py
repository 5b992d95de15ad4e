"""When does a learned reward stop being true? See README.md."""
