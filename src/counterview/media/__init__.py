"""Images, videos and long JSON files: safe to read, and written aside before they are renamed."""
