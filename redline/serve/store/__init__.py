"""What outlives the server's process: jobs, uploads, transcripts; in SQLite or Postgres, and files beside them."""
